//! The checks and the policy as declared in TOML.
//!
//! A check is a file; its name is the file's without `.toml`:
//!
//! ```toml
//! kind = "unit"              # or "http", or "command"
//! unit = "containerd.service"
//! importance = "required"    # the default; or "advisory"
//! timeout = "5s"             # the default is 10s; at most 1min
//! ```
//!
//! | kind | keys | holds when |
//! |---|---|---|
//! | `unit` | `unit` | systemd says that it is active, and it was not started anew since the last look |
//! | `http` | `url`, `status` (any 2xx when absent), `unit` (to blame, optional) | a GET is answered so; redirections are not followed |
//! | `command` | `argv` (an absolute path first; no shell), `unit` (optional) | it exits with 0 |

use std::path::Path;
use std::time::Duration;

use super::gate::{Importance, Policy};
use super::keys::{BadDeclaration, Entry, Keys};

/// How long a check may take, unless it says so itself.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The watchdog of the gate's unit is derived from it: a round of checks takes as long as the slowest.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest deadline. What ends a trial that the gate does not end is derived from it:
/// the updater by itself after 15 minutes, `bistable-undecided.timer` after 20.
pub const MAX_DEADLINE: Duration = Duration::from_secs(600);

/// A declared check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    pub importance: Importance,
    pub timeout: Duration,
    pub check: Check,
}

/// What is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    Unit {
        unit: String,
    },
    Http {
        url: reqwest::Url,
        status: Option<u16>,
        unit: Option<String>,
    },
    Command {
        argv: Vec<String>,
        unit: Option<String>,
    },
}

impl Declaration {
    /// Reads the check that `text`, the content of `file`, declares.
    pub fn parse(file: &Path, text: &str) -> Result<Self, BadDeclaration> {
        let mut keys = Keys::parse(file, text)?;
        let kind = keys.required("kind", Entry::text)?;
        let importance = keys.optional("importance", |entry| match entry.text()?.as_str() {
            "required" => Ok(Importance::Required),
            "advisory" => Ok(Importance::Advisory),
            other => Err(format!("is \"required\" or \"advisory\", not {other:?}")),
        })?;
        let timeout = keys.optional("timeout", |entry| match entry.time_span()? {
            timeout if timeout.is_zero() || timeout > MAX_TIMEOUT => Err(format!(
                "is more than 0 and at most {} s",
                MAX_TIMEOUT.as_secs()
            )),
            timeout => Ok(timeout),
        })?;
        let check = match kind.as_str() {
            "unit" => Check::Unit {
                unit: keys.required("unit", Entry::unit)?,
            },
            "http" => Check::Http {
                url: keys.required("url", Entry::url)?,
                status: keys.optional("status", Entry::status)?,
                unit: keys.optional("unit", Entry::unit)?,
            },
            "command" => Check::Command {
                argv: keys.required("argv", Entry::argv)?,
                unit: keys.optional("unit", Entry::unit)?,
            },
            other => {
                let what = format!("is \"unit\", \"http\" or \"command\", not {other:?}");
                return Err(keys.mistake("kind", what));
            }
        };
        keys.nothing_else()?;
        Ok(Self {
            importance: importance.unwrap_or(Importance::Required),
            timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
            check,
        })
    }
}

/// Takes the keys of a policy file over those in `policy`: `soak` and `deadline`.
pub fn parse_policy(file: &Path, text: &str, policy: Policy) -> Result<Policy, BadDeclaration> {
    let mut keys = Keys::parse(file, text)?;
    let soak = keys
        .optional("soak", Entry::time_span)?
        .unwrap_or(policy.soak);
    let deadline = keys
        .optional("deadline", Entry::time_span)?
        .unwrap_or(policy.deadline);
    if deadline <= soak {
        let what = format!(
            "is longer than the soak time of {} s, or nothing is ever good",
            soak.as_secs()
        );
        return Err(keys.mistake("deadline", what));
    }
    if deadline > MAX_DEADLINE {
        let what = format!(
            "is at most {} min, after which others begin to end the trial",
            MAX_DEADLINE.as_secs() / 60
        );
        return Err(keys.mistake("deadline", what));
    }
    keys.nothing_else()?;
    Ok(Policy { soak, deadline })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Declaration, String> {
        Declaration::parse(Path::new("health.d/web.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_unit_is_required_and_has_ten_seconds_unless_told() {
        let unit = Check::Unit {
            unit: "containerd.service".to_owned(),
        };
        assert_eq!(
            parse("kind = \"unit\"\nunit = \"containerd.service\"\n"),
            Ok(Declaration {
                importance: Importance::Required,
                timeout: DEFAULT_TIMEOUT,
                check: unit
            })
        );
    }

    #[test]
    fn every_key_is_taken() {
        let http = parse(
            "kind = 'http'\nurl = 'http://127.0.0.1:10248/healthz'\nstatus = 204\nunit = 'kubelet.service'\nimportance = 'advisory'\ntimeout = '500ms'\n",
        )
        .unwrap();
        assert_eq!(
            (http.importance, http.timeout),
            (Importance::Advisory, Duration::from_millis(500))
        );
        let Check::Http { url, status, unit } = http.check else {
            panic!("no http check")
        };
        assert_eq!(
            (url.as_str(), status, unit.as_deref()),
            (
                "http://127.0.0.1:10248/healthz",
                Some(204),
                Some("kubelet.service")
            )
        );
        let command = parse("kind = 'command'\nargv = ['/usr/bin/true', '-x']\n").unwrap();
        let argv = vec!["/usr/bin/true".to_owned(), "-x".to_owned()];
        assert_eq!(command.check, Check::Command { argv, unit: None });
    }

    #[test]
    fn a_mistake_is_named_with_file_line_and_key() {
        for (text, said) in [
            ("", "health.d/web.toml: kind: is missing"),
            ("kind = 'unit'\n", "health.d/web.toml: unit: is missing"),
            (
                "# a\nkind = 'ping'\n",
                "health.d/web.toml:2: kind: is \"unit\", \"http\" or \"command\", not \"ping\"",
            ),
            (
                "kind = 'unit'\nunit = 'web'\n",
                "health.d/web.toml:2: unit: is the full name of a systemd unit, not \"web\"",
            ),
            (
                "kind = 'unit'\nunit = 7\n",
                "health.d/web.toml:2: unit: is a text in quotes",
            ),
            (
                "kind = 'unit'\nunit = 'a.service'\ncolour = 1\n",
                "health.d/web.toml:3: colour: is no key of this",
            ),
            (
                "kind = 'unit'\nunit = 'a.service'\nurl = 'http://x'\n",
                "health.d/web.toml:3: url: is no key of this",
            ),
            (
                "kind = 'unit'\nunit = 'a.service'\ntimeout = '2min'\n",
                "health.d/web.toml:3: timeout: is more than 0 and at most 60 s",
            ),
            (
                "kind = 'unit'\nunit = 'a.service'\nimportance = 'high'\n",
                "health.d/web.toml:3: importance: is \"required\" or \"advisory\", not \"high\"",
            ),
            (
                "kind = 'http'\nurl = 'ftp://x/'\n",
                "health.d/web.toml:2: url: is an http or https URL, not \"ftp://x/\"",
            ),
            (
                "kind = 'http'\nurl = 'http://x/'\nstatus = 99\n",
                "health.d/web.toml:3: status: is an HTTP status from 100 to 599",
            ),
            (
                "kind = 'command'\nargv = 'true'\n",
                "health.d/web.toml:2: argv: is a list of texts, an absolute path first",
            ),
            (
                "kind = 'command'\nargv = []\n",
                "health.d/web.toml:2: argv: is a list of texts, an absolute path first",
            ),
            (
                "kind = 'command'\nargv = ['true']\n",
                "health.d/web.toml:2: argv: is a list of texts, an absolute path first",
            ),
        ] {
            assert_eq!(parse(text), Err(said.to_owned()), "{text}");
        }
        let broken = parse("kind = 'unit'\nunit = \n").unwrap_err();
        assert!(broken.starts_with("health.d/web.toml:2: "), "{broken}");
    }

    #[test]
    fn a_policy_is_overridden_key_by_key() {
        let policy = Policy {
            soak: Duration::from_secs(15),
            deadline: Duration::from_secs(180),
        };
        let file = Path::new("health.toml");
        assert_eq!(parse_policy(file, "", policy), Ok(policy));
        let shorter = parse_policy(file, "deadline = '1min'", policy).unwrap();
        assert_eq!(
            shorter,
            Policy {
                deadline: Duration::from_secs(60),
                ..policy
            }
        );
        let error = parse_policy(file, "soak = '1min'\ndeadline = '30s'", policy).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("health.toml:2: deadline: is longer than the soak"),
            "{error}"
        );
        assert!(parse_policy(file, "soak = 15", policy).is_err());
    }

    #[test]
    fn a_deadline_beyond_what_ends_a_trial_otherwise_is_refused() {
        let policy = Policy {
            soak: Duration::from_secs(15),
            deadline: Duration::from_secs(180),
        };
        let file = Path::new("health.toml");
        let longest = parse_policy(file, "deadline = '10min'", policy).unwrap();
        assert_eq!(longest.deadline, MAX_DEADLINE);
        let error = parse_policy(file, "# late\ndeadline = '10min 1s'", policy).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("health.toml:2: deadline: is at most 10 min"),
            "{error}"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_file_upsets_the_parser(text in "[a-z =\"'\\[\\]\n0-9.:/]*") {
            drop(parse(&text));
        }
    }
}
