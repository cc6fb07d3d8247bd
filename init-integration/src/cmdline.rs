//! The kernel command line, as far as PID 1 reads it.

use std::time::Duration;

use partition_layout::RootHash;

/// How long the hardware watchdog waits for a sign of life, unless told.
///
/// It has to outlast [`DEVICE_PATIENCE`] and the start of systemd, which takes
/// the watchdog over within a second or two of being started, ten under emulation.
pub const WATCHDOG_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the disks may take to appear, unless told. Cloud disks take a
/// second or two; SCSI buses with many empty targets have taken ten.
pub const DEVICE_PATIENCE: Duration = Duration::from_secs(30);

/// What the command line asks of PID 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `roothash=`: the image to boot.
    pub root_hash: RootHash,
    /// `bistable.watchdog=` in seconds; `None` when it is 0, which leaves the watchdog alone.
    pub watchdog: Option<Duration>,
    /// `bistable.timeout=` in seconds.
    pub device_patience: Duration,
}

/// Why the command line names no image to boot.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotBoot {
    /// Without it nothing can be verified, so nothing is opened.
    #[error("the kernel command line has no roothash=")]
    NoRootHash,
    /// Somebody appended one; guessing which is meant would boot the wrong image.
    #[error("the kernel command line names two root hashes, {first} and {second}")]
    TwoRootHashes { first: String, second: String },
    /// Not 64 hexadecimal digits.
    #[error("roothash={value} on the kernel command line is no SHA-256 root hash")]
    BadRootHash { value: String },
}

impl Options {
    /// Reads the options from `cmdline` and adds a remark for each that is not as it should be.
    ///
    /// A number that cannot be read counts as absent: it must not cost a boot.
    /// A parameter given twice counts as last given, as the kernel has it, the root hash excepted.
    pub fn parse(cmdline: &str, remarks: &mut Vec<String>) -> Result<Self, CannotBoot> {
        let mut root_hash: Option<String> = None;
        let mut watchdog = WATCHDOG_TIMEOUT;
        let mut device_patience = DEVICE_PATIENCE;
        for parameter in parameters(cmdline) {
            let Some((name, value)) = parameter.split_once('=') else {
                continue;
            };
            match name {
                "roothash" => match root_hash.replace(value.to_ascii_lowercase()) {
                    Some(first) if !first.eq_ignore_ascii_case(value) => {
                        let second = value.to_owned();
                        return Err(CannotBoot::TwoRootHashes { first, second });
                    }
                    Some(_) | None => {}
                },
                "bistable.watchdog" => {
                    seconds(&parameter, value, 0..=3600, &mut watchdog, remarks);
                }
                "bistable.timeout" => {
                    seconds(&parameter, value, 1..=3600, &mut device_patience, remarks);
                }
                _ => {}
            }
        }
        let value = root_hash.ok_or(CannotBoot::NoRootHash)?;
        let root_hash = RootHash::parse(&value).map_err(|_| CannotBoot::BadRootHash { value })?;
        let watchdog = (!watchdog.is_zero()).then_some(watchdog);
        Ok(Self {
            root_hash,
            watchdog,
            device_patience,
        })
    }
}

fn seconds(
    parameter: &str,
    value: &str,
    range: std::ops::RangeInclusive<u64>,
    target: &mut Duration,
    remarks: &mut Vec<String>,
) {
    match value.parse::<u64>() {
        Ok(number) if range.contains(&number) => *target = Duration::from_secs(number),
        Ok(_) | Err(_) => remarks.push(format!(
            "{parameter} is not a number of seconds from {} to {}; keeping {}",
            range.start(),
            range.end(),
            target.as_secs(),
        )),
    }
}

/// Splits a command line as the kernel does: at white space outside of double
/// quotes, which vanish; what follows `--` is for init and not looked at.
fn parameters(cmdline: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut current = String::new();
    let mut quoted = false;
    for character in cmdline.chars() {
        match character {
            '"' => quoted = !quoted,
            blank if blank.is_ascii_whitespace() && !quoted => {
                if !current.is_empty() {
                    found.push(std::mem::take(&mut current));
                }
            }
            other => current.push(other),
        }
    }
    if !current.is_empty() {
        found.push(current);
    }
    let end = found
        .iter()
        .position(|parameter| parameter == "--")
        .unwrap_or(found.len());
    found.truncate(end);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "00112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210";

    fn parse(cmdline: &str) -> (Result<Options, CannotBoot>, Vec<String>) {
        let mut remarks = Vec::new();
        let options = Options::parse(cmdline, &mut remarks);
        (options, remarks)
    }

    #[test]
    fn a_bare_root_hash_gets_the_defaults() {
        let (options, remarks) = parse(&format!(
            "gpt panic=10 roothash={HASH} console=ttyS0,115200\n"
        ));
        let options = options.expect("it is a good line");
        assert_eq!(options.root_hash.to_string(), HASH);
        assert_eq!(options.watchdog, Some(WATCHDOG_TIMEOUT));
        assert_eq!(options.device_patience, DEVICE_PATIENCE);
        assert!(remarks.is_empty());
    }

    #[test]
    fn numbers_are_taken_and_the_last_one_counts() {
        let line =
            format!("bistable.timeout=1 roothash={HASH} bistable.timeout=7 bistable.watchdog=90");
        let options = parse(&line).0.expect("it is a good line");
        assert_eq!(options.watchdog, Some(Duration::from_secs(90)));
        assert_eq!(options.device_patience, Duration::from_secs(7));
    }

    #[test]
    fn a_watchdog_of_zero_is_left_alone() {
        let options = parse(&format!("roothash={HASH} bistable.watchdog=0")).0;
        assert_eq!(options.expect("it is a good line").watchdog, None);
    }

    #[test]
    fn a_bad_number_is_remarked_and_does_not_cost_the_boot() {
        for bad in [
            "bistable.watchdog=soon",
            "bistable.timeout=0",
            "bistable.timeout=-1",
            "bistable.watchdog=3601",
        ] {
            let (options, remarks) = parse(&format!("roothash={HASH} {bad}"));
            let options = options.expect("the rest of the line is good");
            assert_eq!(
                (options.watchdog, options.device_patience),
                (Some(WATCHDOG_TIMEOUT), DEVICE_PATIENCE)
            );
            assert!(
                remarks.iter().any(|remark| remark.contains(bad)),
                "{remarks:?}"
            );
        }
    }

    #[test]
    fn what_names_no_single_image_is_refused() {
        let other = HASH.replace("00", "ff");
        let both = format!("roothash={HASH} roothash={other}");
        for (line, why) in [
            (String::new(), CannotBoot::NoRootHash),
            (format!("quiet -- roothash={HASH}"), CannotBoot::NoRootHash),
            (
                format!("note=\"a roothash={HASH}\""),
                CannotBoot::NoRootHash,
            ),
            (
                "roothash=".to_owned(),
                CannotBoot::BadRootHash {
                    value: String::new(),
                },
            ),
            (
                "roothash=12ab".to_owned(),
                CannotBoot::BadRootHash {
                    value: "12ab".to_owned(),
                },
            ),
            (
                both,
                CannotBoot::TwoRootHashes {
                    first: HASH.to_owned(),
                    second: other,
                },
            ),
        ] {
            assert_eq!(parse(&line).0, Err(why), "{line}");
        }
    }

    #[test]
    fn the_same_root_hash_twice_is_one_root_hash() {
        let line = format!("roothash={HASH} roothash=\"{}\"", HASH.to_uppercase());
        assert_eq!(
            parse(&line).0.expect("they agree").root_hash.to_string(),
            HASH
        );
    }

    proptest::proptest! {
        #[test]
        fn no_line_upsets_the_parser(line: String) {
            drop(parse(&line));
        }
    }
}
