//! What a caller on the bus asks for: the body of a call.
//!
//! ```text
//! u8 which call   a text and a{sv}, as they lie in a message
//! ```

use std::collections::HashMap;

use updater::dbus::arguments::{Options, complaint, plan_ask, stage_ask};
use updater::refusal::Refused;
use zbus::Variant;
use zbus::wire::serialized::{Context, Data};
use zbus::wire::{LE, to_bytes};

use crate::Outcome;
use crate::script::Script;

const STAGE: u8 = 0;
const PLAN: u8 = 1;
const MARK_BAD: u8 = 2;
const DEFAULT_TRIES: u32 = 3;
/// Also said in docs/dbus-api.md.
const LONGEST_TEXT: usize = 1024;

pub(crate) fn read(input: &[u8]) -> Outcome {
    let mut script = Script(input);
    let call = script.byte();
    let data: Data<'_, '_> = Data::new(script.0, Context::new(LE, 0));
    let Ok(((text, options), _)) = data.deserialize::<(&str, Options<'_>)>() else {
        return Outcome::Refused;
    };
    let accepted = match call {
        STAGE | PLAN => {
            let ask = if call == PLAN { plan_ask } else { stage_ask };
            let asked = told(ask(text, &options, DEFAULT_TRIES));
            if let Some(ask) = &asked {
                let version = ask.version.as_ref().map(|version| version.as_str());
                assert_eq!(version.unwrap_or_default(), text);
                only(&options, &["force", "tries"]);
                assert!(call == STAGE || ask.tries == DEFAULT_TRIES);
            }
            asked.is_some()
        }
        _ => {
            let complaint = told(complaint(text, &options));
            if let Some(complaint) = &complaint {
                only(&options, &["check", "unit", "lines"]);
                let texts = [&complaint.reason, &complaint.check, &complaint.unit];
                assert!(texts.iter().all(|text| text.len() <= LONGEST_TEXT));
                let all = texts.into_iter().chain(&complaint.lines);
                let is_plain = |text: &String| !text.chars().any(char::is_control);
                assert!(all.into_iter().all(is_plain), "nothing that terminals obey");
            }
            complaint.is_some()
        }
    };
    if accepted {
        Outcome::Accepted
    } else {
        Outcome::Refused
    }
}

/// Whatever is wrong with a call is told as what it is.
fn told<T>(read: Result<T, Refused>) -> Option<T> {
    match read {
        Ok(read) => Some(read),
        Err(refused) => {
            assert!(matches!(refused, Refused::BadArgument(_)), "{refused:?}");
            None
        }
    }
}

fn only(options: &Options<'_>, known: &[&str]) {
    let unknown = options.keys().find(|key| !known.contains(&key.as_str()));
    assert_eq!(unknown, None, "nothing is passed over");
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let seed = |call, text: &str, options: &[(&str, Variant<'_>)]| {
        let options: HashMap<_, _> = options.iter().map(|(key, value)| (*key, value)).collect();
        let body = to_bytes(Context::new(LE, 0), &(text, options));
        let body = body.expect("a body that can be sent");
        [&[call], body.bytes()].concat()
    };
    vec![
        seed(
            STAGE,
            "2.0",
            &[("force", true.into()), ("tries", 2_u32.into())],
        ),
        seed(PLAN, "", &[("force", false.into())]),
        seed(
            MARK_BAD,
            "it does not\nanswer",
            &[
                ("check", "web".into()),
                ("unit", "web.service".into()),
                ("lines", vec!["first", "last\x1b[2J"].into()),
            ],
        ),
    ]
}
