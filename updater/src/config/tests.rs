use super::*;

fn read(texts: &[&str]) -> Result<(Config, Vec<String>), String> {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<_> = (0..texts.len())
        .map(|number| folder.path().join(format!("{number}.toml")))
        .collect();
    for (file, text) in files.iter().zip(texts) {
        std::fs::write(file, text).unwrap();
    }
    let shorten = |text: String| text.replace(&format!("{}/", folder.path().display()), "");
    match Config::read(&files) {
        Ok((config, unknown)) => Ok((
            config,
            unknown.iter().map(|key| shorten(key.to_string())).collect(),
        )),
        Err(error) => Err(shorten(error.to_string())),
    }
}

#[test]
fn a_later_file_overrides_an_earlier_one_key_by_key() {
    let (config, unknown) = read(&[
        "repository = \"http://one/\"\nchannel = \"stable\"\ntries = 3\n",
        "channel = \"canary\"",
        "repository = \"https://two/base\"",
    ])
    .unwrap();
    assert_eq!(config.repository.unwrap().to_string(), "https://two/base/");
    assert_eq!(config.channel.as_str(), "canary");
    assert_eq!(config.tries, 3);
    assert!(unknown.is_empty());
}

#[test]
fn the_defaults_that_are_shipped_are_those_of_the_code_but_for_looking_what_there_is() {
    let shipped =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd-units/config/updater.toml");
    let (config, unknown) = Config::read(&[shipped]).unwrap();
    let expected = Config {
        automatic: Automatic::Check,
        ..Config::default()
    };
    assert_eq!(config, expected);
    assert_eq!(unknown, []);
}

#[test]
fn without_settings_nothing_is_done_by_itself() {
    assert_eq!(Config::default().automatic, Automatic::Off);
}

#[test]
fn what_a_node_does_by_itself_is_read() {
    let (config, unknown) = read(&["\
automatic = \"reboot\"
repository = \"https://none/\"
mirrors = [\"https://one/\", \"/srv/two b\"]
bandwidth = \"20 MiB/s\"
scrub = \"monthly\"

[[window]]
days = [\"mon\", \"sat\"]
from = \"22:00\"
to = \"04:00\"
time_zone = \"Europe/Berlin\"

[[window]]
days = [\"daily\"]
from = \"12:00\"
to = \"24:00\"
"])
    .unwrap();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert_eq!(config.automatic, Automatic::Reboot);
    let servers: Vec<_> = config.servers().iter().map(ToString::to_string).collect();
    assert_eq!(
        servers,
        ["https://none/", "https://one/", "file:///srv/two%20b/"]
    );
    assert_eq!(config.bandwidth, Bandwidth::parse("20 MiB/s").ok());
    assert_eq!(config.scrub, Scrub::Monthly);
    // A Tuesday: the first window opens on Mondays and Saturdays only.
    let at = |text: &str| config.windows.is_open(text.parse().unwrap());
    assert!(at("2026-11-24T01:00:00+01:00"));
    assert!(!at("2026-11-24T11:30:00Z"));
    assert!(at("2026-11-24T12:30:00Z"));
    assert!(at("2026-11-24T23:59:00Z"));
}

#[test]
fn a_later_file_replaces_all_windows_and_can_take_them_away() {
    let window =
        |from: &str| format!("[[window]]\ndays = [\"daily\"]\nfrom = \"{from}\"\nto = \"23:00\"\n");
    let noon = "2026-11-24T12:30:00Z".parse().unwrap();
    let (config, _) = read(&[&window("12:00"), &window("22:00")]).unwrap();
    assert!(!config.windows.is_open(noon));
    let (config, _) = read(&[&window("22:00"), "window = []"]).unwrap();
    assert_eq!(config.windows, Windows::default());
    assert!(config.windows.is_open(noon));
}

#[test]
fn files_that_are_not_there_leave_the_defaults() {
    let (config, _) = Config::read(&[PathBuf::from("/nonexistent/updater.toml")]).unwrap();
    assert_eq!(config, Config::default());
}

#[test]
fn a_bad_value_is_named_by_file_line_and_key() {
    for (text, expected) in [
        (
            "tries = 3\nchannel = 7\n",
            "0.toml:2: channel must be a string, not integer",
        ),
        (
            "tries = 0",
            "0.toml:1: tries is not a whole number from 1 to 10",
        ),
        (
            "tries = 11",
            "0.toml:1: tries is not a whole number from 1 to 10",
        ),
        (
            "tries = \"3\"",
            "0.toml:1: tries is not a whole number from 1 to 10",
        ),
        (
            "\n\nrepository = \"ftp://x/\"",
            "0.toml:3: repository is a ftp URL; http, https and file are known",
        ),
        (
            "tries = 3\nautomatic = \"yes\"\n",
            "0.toml:2: automatic is \"yes\"; off, check, stage and reboot are known",
        ),
        (
            "mirrors = \"http://one/\"",
            "0.toml:1: mirrors must be a list, not string",
        ),
        (
            "mirrors = [\n  \"http://one/\",\n  \"one\"\n]",
            "0.toml:3: mirrors \"one\" is not a URL: relative URL without a base",
        ),
        (
            "bandwidth = \"20 Mbit/s\"",
            "0.toml:1: bandwidth is no bandwidth of at least 1 KiB/s, as in \"20 MiB/s\"; known are B, KiB, MiB, GiB, kB, MB and GB",
        ),
        (
            "scrub = \"hourly\"",
            "0.toml:1: scrub is \"hourly\"; off, daily, weekly and monthly are known",
        ),
        (
            "[window]\nfrom = \"22:00\"",
            "0.toml:1: window must be a list, not table",
        ),
        (
            "[[window]]\ndays = [\"daily\"]\nfrom = \"10 pm\"\nto = \"04:00\"",
            "0.toml:3: window.from is \"10 pm\", which is no time of day, as \"22:00\" is",
        ),
        (
            "[[window]]\ndays = [\"daily\"]\nfrom = \"24:00\"\nto = \"04:00\"",
            "0.toml:3: window.from is \"24:00\", which is no time of day, as \"22:00\" is",
        ),
        (
            "[[window]]\ndays = [\"sunday\"]\nfrom = \"22:00\"\nto = \"04:00\"",
            "0.toml:2: window.days is \"sunday\"; mon, tue, wed, thu, fri, sat, sun and daily are known",
        ),
        (
            "[[window]]\ndays = []\nfrom = \"22:00\"\nto = \"04:00\"",
            "0.toml:2: window.days names no day",
        ),
        (
            "[[window]]\ndays = [\"daily\"]\nfrom = \"22:00\"\nto = \"04:00\"\ntime_zone = \"Berlin\"",
            "0.toml:5: window.time_zone is \"Berlin\", which is no time zone, as \"Europe/Berlin\" is",
        ),
        (
            "[[window]]\ndays = [\"daily\"]\nfrom = \"22:00\"\nto = \"04:00\"\nmonths = [1]",
            "0.toml:5: window.months is not known: a window has days, from, to and time_zone",
        ),
        (
            "tries = 3\n[[window]]\ndays = [\"daily\"]\nfrom = \"22:00\"",
            "0.toml:2: window has no to",
        ),
        (
            "tries = 3\n[[window]]\ndays = [\"daily\"]\nfrom = \"22:00\"\nto = \"22:00\"",
            "0.toml:2: window ends when it begins; a whole day is from \"00:00\" to \"24:00\"",
        ),
        (
            "ca_certificates = \"/etc/ssl/own.pem\"",
            "0.toml:1: ca_certificates holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)",
        ),
        (
            "repository = \"http://user:secret@x/\"",
            "0.toml:1: repository must not hold a user name or password: they would show in every message",
        ),
    ] {
        assert_eq!(read(&[text]).unwrap_err(), expected);
    }
    let garbage = "ca_certificates = \"\"\"\n-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n\"\"\"";
    let unusable = read(&[garbage]).unwrap_err();
    let expected = "0.toml:1: ca_certificates holds a certificate that cannot be used: ";
    assert!(unusable.starts_with(expected), "{unusable}");
    let syntax = read(&["tries = 3\nchannel = \"sta\n"]).unwrap_err();
    assert!(syntax.starts_with("0.toml:2: "), "{syntax}");
}

#[test]
fn a_key_of_a_newer_version_is_told_and_ignored() {
    let (config, unknown) = read(&["tries = 5\nmirror = []\n"]).unwrap();
    assert_eq!(config.tries, 5);
    assert_eq!(unknown, ["0.toml:2: nothing is called \"mirror\" here"]);
}

#[test]
fn a_file_without_end_is_refused() {
    let text = "#".repeat(70_000);
    assert_eq!(
        read(&[&text]).unwrap_err(),
        "0.toml is larger than 65536 bytes"
    );
}

#[test]
fn an_empty_repository_is_none() {
    let (config, _) = read(&["repository = \"http://one/\"", "repository = \"\""]).unwrap();
    assert_eq!(config.repository, None);
}

#[test]
fn mirrors_are_asked_after_the_repository_in_the_order_given() {
    let (config, unknown) = read(&[
        "mirrors = [\"http://old/\"]",
        "repository = \"https://one/\"\nmirrors = [\"http://two/base\", \"/srv/a b/\"]",
        "bandwidth = \"20 MiB/s\"",
    ])
    .unwrap();
    assert_eq!(unknown, Vec::<String>::new());
    let servers: Vec<_> = config.servers().iter().map(ToString::to_string).collect();
    let expected = ["https://one/", "http://two/base/", "file:///srv/a%20b/"];
    assert_eq!(servers, expected);
    assert_eq!(config.bandwidth, Bandwidth::parse("20 MiB/s").ok());
    let (config, _) = read(&["bandwidth = \"1 MiB/s\"", "bandwidth = \"\""]).unwrap();
    assert_eq!(config.bandwidth, None);
}
