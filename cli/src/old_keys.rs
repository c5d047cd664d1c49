//! Renamed keys of JSON output: for one version, the earlier name has the same value.

use serde_json::{Map, Value};

/// Current and earlier names.
const RENAMED: &[(&str, &str)] = &[
    ("calibration_images", "calibration_pictures"),
    ("fused", "joined"),
    ("image", "picture"),
    ("images", "pictures"),
    ("lr", "rate"),
    ("max_grad_norm", "clip_norm"),
    ("p_value", "chance"),
    ("skipped", "passed_over"),
    ("trust_coefficient", "trust"),
    ("validation", "held_out"),
    ("validation_accuracy", "held_out_accuracy"),
    ("validation_aux", "held_out_aux"),
];

/// Adds the earlier names to a line of JSON.
pub(crate) fn with_old_keys(text: String) -> String {
    let has_renamed = RENAMED.iter().any(|(name, _)| text.contains(&format!("\"{name}\":")));
    match serde_json::from_str::<Value>(&text) {
        // Numbers keep their digits: both sides use the shortest form that round-trips.
        Ok(mut value) if has_renamed => {
            add(&mut value);
            value.to_string()
        }
        _ => text,
    }
}

fn add(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(add),
        Value::Object(map) => {
            map.values_mut().for_each(add);
            add_to(map);
        }
        _ => {}
    }
}

fn add_to(map: &mut Map<String, Value>) {
    for (name, before) in RENAMED {
        if let (Some(value), false) = (map.get(*name), map.contains_key(*before)) {
            map.insert((*before).into(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_keys_have_the_values_of_new_ones() {
        let text = r#"{"event":"epoch","loss":0.1,"validation":{"images":[{"image":"a.jpg"}]}}"#;
        let value: Value = serde_json::from_str(&with_old_keys(text.into())).expect("JSON");
        assert_eq!(value["validation"], value["held_out"]);
        assert_eq!(value["held_out"]["pictures"][0]["picture"], "a.jpg");
        assert_eq!(value["loss"], 0.1);
        let other = r#"{"event":"end","best":0.30000001}"#;
        assert_eq!(with_old_keys(other.into()), other);
    }
}
