//! The epochs of a run as a table for spreadsheets and pandas.

use std::fmt::Write;

use super::{EpochRecord, HeadRecord, Record};

/// The table as CSV, one row per epoch of the log; unknown values are empty.
pub(super) fn table(records: &[Record]) -> String {
    let epochs: Vec<&EpochRecord> = records.iter().filter_map(Record::epoch).collect();
    let mut heads: Vec<&str> = Vec::new();
    for name in epochs.iter().flat_map(|epoch| &epoch.heads).map(|head| head.name.as_str()) {
        if !heads.contains(&name) {
            heads.push(name);
        }
    }
    let mut columns: Vec<String> = ["epoch", "step", "lr", "train_loss"].map(String::from).to_vec();
    for head in &heads {
        columns.extend([format!("train_loss_{head}"), format!("train_accuracy_{head}")]);
    }
    columns.extend(["val_loss", "val_accuracy", "val_accuracy_top5"].map(String::from));
    let aux = || heads.iter().filter(|head| **head != "main");
    for head in aux() {
        columns.extend([format!("val_loss_{head}"), format!("val_accuracy_{head}")]);
    }
    columns.extend(["best", "images_per_s", "seconds"].map(String::from));
    let mut text = columns.join(",") + "\n";
    for epoch in epochs {
        let mut row = vec![(epoch.epoch + 1).to_string(), epoch.step.to_string(), cell(Some(epoch.lr))];
        row.push(cell(Some(epoch.loss)));
        let of = |list: &[HeadRecord], name: &str| {
            let head = list.iter().find(|head| head.name == name);
            [cell(head.map(|head| head.loss)), cell(head.map(|head| head.accuracy))]
        };
        row.extend(heads.iter().flat_map(|head| of(&epoch.heads, head)));
        let validation = epoch.validation.as_ref();
        row.extend([
            cell(validation.map(|v| v.loss)),
            cell(validation.map(|v| v.accuracy)),
            cell(validation.map(|v| v.accuracy5)),
        ]);
        row.extend(aux().flat_map(|head| of(&epoch.validation_aux, head)));
        row.extend([epoch.best.to_string(), cell(Some(epoch.images_per_s)), cell(Some(epoch.seconds))]);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", row.join(","));
    }
    text
}

/// A number that reads back as the same one; empty if it is unknown or NaN.
fn cell(value: Option<f64>) -> String {
    value.filter(|value| !value.is_nan()).map_or_else(String::new, |value| value.to_string())
}
