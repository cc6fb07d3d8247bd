use proptest::prelude::*;

use super::*;

fn window(days: &str, from: &str, to: &str, zone: &str) -> Windows {
    let days = days.split(' ').map(|day| Days::parse(day).unwrap());
    Windows::new(vec![Window {
        days: days.fold(Days::default(), Days::and),
        from: TimeOfDay::parse(from).unwrap(),
        to: TimeOfDay::parse_end(to).unwrap(),
        zone: Zone::parse(zone).unwrap(),
    }])
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Holds the window against times that lie in it and others that do not.
fn check(windows: &Windows, inside: &[&str], outside: &[&str]) {
    for time in inside {
        assert!(windows.is_open(at(time)), "{time} is not inside");
    }
    for time in outside {
        assert!(!windows.is_open(at(time)), "{time} is inside");
    }
}

#[test]
fn without_windows_it_is_always_open() {
    let none = Windows::default();
    check(&none, &["2026-11-21T16:00:00Z"], &[]);
    assert_eq!(none.next_opening(at("2026-11-21T16:00:00Z")), None);
}

#[test]
fn a_window_is_open_from_its_first_moment_to_before_its_last() {
    // 2026-11-21 is a Saturday.
    let windows = window("sat", "10:00", "12:00", "UTC");
    check(
        &windows,
        &["2026-11-21T10:00:00Z", "2026-11-21T11:59:59.999999999Z"],
        &[
            "2026-11-21T09:59:59.999999999Z",
            "2026-11-21T12:00:00Z",
            "2026-11-20T11:00:00Z",
            "2026-11-22T11:00:00Z",
        ],
    );
}

#[test]
fn a_window_over_midnight_belongs_to_the_day_on_which_it_opens() {
    let windows = window("fri", "22:00", "04:00", "Europe/Berlin");
    check(
        &windows,
        &[
            "2026-11-20T22:00:00+01:00",
            "2026-11-21T00:00:00+01:00",
            "2026-11-21T03:59:59+01:00",
        ],
        &[
            "2026-11-20T21:59:59+01:00",
            "2026-11-21T04:00:00+01:00",
            // The night from Thursday, and the one from Saturday.
            "2026-11-20T01:00:00+01:00",
            "2026-11-22T01:00:00+01:00",
        ],
    );
}

#[test]
fn a_day_ends_at_24_00_and_the_next_one_goes_on() {
    let windows = window("daily", "00:00", "24:00", "America/New_York");
    check(
        &windows,
        &[
            "2026-11-20T23:59:59.999999999-05:00",
            "2026-11-21T00:00:00-05:00",
        ],
        &[],
    );
}

#[test]
fn in_an_hour_that_the_clock_leaves_out_the_next_one_is_meant() {
    // Berlin, 2026-03-29: 02:00 CET is followed by 03:00 CEST.
    let windows = window("sun", "02:15", "02:45", "Europe/Berlin");
    check(
        &windows,
        &["2026-03-29T03:15:00+02:00", "2026-03-29T03:44:59+02:00"],
        &["2026-03-29T03:00:00+02:00", "2026-03-29T03:45:00+02:00"],
    );
    // It closes as long after it opened as ever.
    let windows = window("sun", "01:30", "02:30", "Europe/Berlin");
    check(
        &windows,
        &["2026-03-29T01:30:00+01:00", "2026-03-29T03:29:59+02:00"],
        &["2026-03-29T03:30:00+02:00"],
    );
    // This one has no moment left on that day, and the one a week later has.
    let windows = window("sun", "02:30", "03:15", "Europe/Berlin");
    check(&windows, &[], &["2026-03-29T03:20:00+02:00"]);
    assert_eq!(
        windows.next_opening(at("2026-03-29T00:00:00Z")),
        Some(at("2026-04-05T02:30:00+02:00"))
    );
}

#[test]
fn of_an_hour_that_comes_twice_the_first_is_meant() {
    // Berlin, 2026-10-25: 03:00 CEST is followed by 02:00 CET.
    let windows = window("sun", "02:15", "02:45", "Europe/Berlin");
    check(
        &windows,
        &["2026-10-25T02:15:00+02:00", "2026-10-25T02:44:59+02:00"],
        &["2026-10-25T02:15:00+01:00", "2026-10-25T02:44:59+01:00"],
    );
    // What spans the change is an hour longer.
    let windows = window("sat", "22:00", "04:00", "Europe/Berlin");
    check(
        &windows,
        &["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"],
        &["2026-10-25T04:00:00+01:00"],
    );
}

#[test]
fn the_next_opening_is_the_nearest_of_all_windows() {
    let mut windows = window("mon", "22:00", "04:00", "Europe/Berlin");
    windows.0.extend(window("sun", "01:00", "02:00", "UTC").0);
    assert_eq!(
        windows.next_opening(at("2026-11-21T16:00:00Z")),
        Some(at("2026-11-22T01:00:00Z"))
    );
    assert_eq!(
        windows.next_opening(at("2026-11-22T01:00:00Z")),
        Some(at("2026-11-23T22:00:00+01:00"))
    );
}

#[test]
fn what_is_no_time_of_day_is_refused() {
    for text in [
        "", "22", "22:60", "24:00", "24:01", "2:00", "+2:00", "22:00:00", "-1:00",
    ] {
        assert!(TimeOfDay::parse(text).is_err(), "{text}");
    }
    assert!(TimeOfDay::parse_end("24:01").is_err());
}

proptest! {
    /// Whatever the clock does: when a window is closed, it is so until the next
    /// opening, and open then.
    #[test]
    fn between_now_and_the_next_opening_nothing_opens(
        hours in (0_i8..24, 0_i8..24).prop_filter("not empty", |(from, to)| from != to),
        day in 0..7_usize,
        second in 1_767_225_600_i64..1_798_761_600, // the year 2026
        part in 0_i64..1000,
    ) {
        let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
        let (from, to) = (format!("{:02}:30", hours.0), format!("{:02}:30", hours.1));
        let windows = window(days[day], &from, &to, "Europe/Berlin");
        let now = Timestamp::from_second(second).unwrap();
        let next = windows.next_opening(now).unwrap();
        prop_assert!(next > now);
        prop_assert!(windows.is_open(next));
        if !windows.is_open(now) {
            let between = second + (next.as_second() - second) * part / 1000;
            prop_assert!(!windows.is_open(Timestamp::from_second(between).unwrap()));
        }
    }
}
