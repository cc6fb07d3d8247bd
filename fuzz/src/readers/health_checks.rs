//! What a node's health is judged by: a policy and a check, divided by a zero.

use std::path::Path;
use std::time::Duration;

use init_integration::health::configuration::DEFAULT_POLICY;
use init_integration::health::declaration::{
    Check, Declaration, MAX_DEADLINE, MAX_TIMEOUT, parse_policy,
};
use init_integration::health::keys::BadDeclaration;
use init_integration::health::time_span;

use crate::Outcome;

pub(crate) fn read(input: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(input) else {
        return Outcome::Refused;
    };
    let (policy, check) = text.split_once('\0').unwrap_or((text, ""));
    let file = Path::new("health.toml");
    let policy = match parse_policy(file, policy, DEFAULT_POLICY) {
        Err(mistake) => {
            hold_mistake(&mistake, file, policy);
            return Outcome::Refused;
        }
        Ok(policy) => policy,
    };
    assert!(policy.soak < policy.deadline && policy.deadline <= MAX_DEADLINE);
    let millis = |time: Duration| format!("{}ms", time.as_millis());
    let again = time_span::parse(&millis(policy.deadline));
    assert_eq!(again, Ok(policy.deadline), "a time prints itself");

    let file = Path::new("health.d/check.toml");
    let declared = match Declaration::parse(file, check) {
        Err(mistake) => {
            hold_mistake(&mistake, file, check);
            return Outcome::Refused;
        }
        Ok(declared) => declared,
    };
    assert!(!declared.timeout.is_zero() && declared.timeout <= MAX_TIMEOUT);
    let unit = match &declared.check {
        Check::Unit { unit } => Some(unit),
        Check::Http { url, status, unit } => {
            assert!(matches!(url.scheme(), "http" | "https"));
            assert!(status.is_none_or(|status| (100..600).contains(&status)));
            unit.as_ref()
        }
        Check::Command { argv, unit } => {
            assert!(argv.first().is_some_and(|program| program.starts_with('/')));
            unit.as_ref()
        }
    };
    assert!(unit.is_none_or(|unit| unit.contains('.') && !unit.contains('/')));
    Outcome::Accepted
}

/// Asserts that a mistake is told with its file, and a line that this has.
fn hold_mistake(mistake: &BadDeclaration, file: &Path, text: &str) {
    assert_eq!(mistake.file, file);
    let lines = text.split('\n').count();
    assert!(mistake.line.is_none_or(|line| (1..=lines).contains(&line)));
    assert!(mistake.line.is_some() || mistake.key.is_some());
    assert!(!mistake.what.is_empty());
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    [
        "soak = '15s'\ndeadline = \"1min 30s\"\n\0kind = 'unit'\nunit = 'containerd.service'\n",
        "soak = '500ms'\0kind = 'http'\nurl = 'http://127.0.0.1:10248/healthz'\nstatus = 204\nunit = 'kubelet.service'\nimportance = 'advisory'\ntimeout = '500ms'\n",
        "\0kind = 'command'\nargv = ['/usr/bin/true', '-x']\nimportance = 'required'\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}
