//! Three versions, a line each, and their order.

use std::cmp::Ordering;

use partition_layout::{Version, compare_versions};

use crate::Outcome;

pub(crate) fn read(input: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(input) else {
        return Outcome::Refused;
    };
    let mut lines = text.split('\n');
    let texts = [(); 3].map(|()| lines.next().unwrap_or_default());
    for a in texts {
        assert_eq!(compare_versions(a, a), Ordering::Equal);
        for b in texts {
            let order = compare_versions(a, b);
            assert_eq!(compare_versions(b, a), order.reverse(), "{a:?} and {b:?}");
            for c in texts {
                let on = compare_versions(b, c);
                let over = compare_versions(a, c);
                let both = if order == Ordering::Equal { on } else { order };
                let is_told = order == on || order == Ordering::Equal || on == Ordering::Equal;
                assert!(!is_told || over == both, "{a:?}, {b:?}, {c:?}");
            }
        }
    }
    let mut accepted = 0;
    for text in texts {
        if let Ok(version) = Version::parse(text) {
            accepted += 1;
            assert_eq!(version.as_str(), text);
            assert!(text.len() <= Version::MAX_LENGTH);
            assert!(Version::parse(&version.to_string()).is_ok());
        }
    }
    if accepted == 3 {
        Outcome::Accepted
    } else {
        Outcome::Refused
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    ["1.0\n1.00\n2.0~rc1", "1.0^1-4\n1.0-4\n1.0.1", "1a\n1b2\n10"]
        .map(|text| text.as_bytes().to_vec())
        .into()
}
