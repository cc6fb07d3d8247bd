//! The kernel's command line, as PID 1 reads it.

use init_integration::cmdline::Options;

use crate::Outcome;

pub(crate) fn read(input: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(input) else {
        return Outcome::Refused;
    };
    let mut remarks = Vec::new();
    let Ok(options) = Options::parse(text, &mut remarks) else {
        return Outcome::Refused;
    };
    assert!((1..=3600).contains(&options.device_patience.as_secs()));
    let watchdog = options.watchdog.map_or(0, |time| time.as_secs());
    assert!(
        options
            .watchdog
            .is_none_or(|time| (1..=3600).contains(&time.as_secs()))
    );
    let printed = format!(
        "quiet \"roothash={}\" bistable.watchdog={watchdog} bistable.timeout={} -- roothash=0",
        options.root_hash,
        options.device_patience.as_secs(),
    );
    let mut remarks = Vec::new();
    let again = Options::parse(&printed, &mut remarks);
    assert_eq!(again, Ok(options), "{printed}");
    assert_eq!(remarks, [""; 0]);
    Outcome::Accepted
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let hash = "00112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210";
    [
        format!("roothash={hash} gpt panic=10"),
        format!("quiet \"bistable.timeout=60\" roothash={hash} bistable.watchdog=0 -- single"),
        format!("bistable.watchdog=x bistable.timeout=9999\nroothash={hash} roothash={hash}"),
    ]
    .map(String::into_bytes)
    .into()
}
