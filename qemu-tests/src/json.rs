//! D-Bus values as JSON, the form in which stories look at them.

use serde_json::{Map, Number, Value};
use zbus::Variant;

/// Returns `variant` as JSON; a variant within is unpacked.
pub fn of(variant: &Variant<'_>) -> Value {
    match variant {
        Variant::U8(number) => Value::from(*number),
        Variant::Bool(yes) => Value::from(*yes),
        Variant::I16(number) => Value::from(*number),
        Variant::U16(number) => Value::from(*number),
        Variant::I32(number) => Value::from(*number),
        Variant::U32(number) => Value::from(*number),
        Variant::I64(number) => Value::from(*number),
        Variant::U64(number) => Value::from(*number),
        Variant::F64(number) => Number::from_f64(*number).map_or(Value::Null, Value::from),
        Variant::Str(text) => Value::from(text.as_str()),
        Variant::Signature(signature) => Value::from(signature.to_string()),
        Variant::ObjectPath(path) => Value::from(path.as_str()),
        Variant::Variant(inner) => of(inner),
        Variant::Array(array) => array.inner().iter().map(of).collect(),
        Variant::Dict(dict) => dict
            .iter()
            .map(|(key, value)| (key_text(key), of(value)))
            .collect::<Map<_, _>>()
            .into(),
        Variant::Structure(structure) => structure.fields().iter().map(of).collect(),
        Variant::Fd(_) => Value::Null,
    }
}

fn key_text(key: &Variant<'_>) -> String {
    match of(key) {
        Value::String(text) => text,
        other @ (Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::Array(_)
        | Value::Object(_)) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_dictionary_of_variants_becomes_an_object() {
        let dict = HashMap::from([("tries", Variant::from(3u32)), ("name", Variant::from("x"))]);
        assert_eq!(of(&Variant::from(dict)), json!({ "tries": 3, "name": "x" }));
        assert_eq!(of(&Variant::from(("a", 1u64))), json!(["a", 1]));
    }
}
