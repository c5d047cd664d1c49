//! `#include "FILE"` in shaders: replaced by the text of a file of `shaders/include`. A file
//! declares its parameters in a line `#parameters NAME ...`. An include sets them,
//! `#include "FILE" NAME = TEXT; NAME = TEXT`, and TEXT replaces `{NAME}`; it may contain counters
//! of surrounding repetitions, `{i}`. Files may include others; sections and conditions apply
//! across includes as if the text were inline.

use std::collections::BTreeMap;

macro_rules! files {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../shaders/include/", $name)))),*]
    };
}

/// The files of `shaders/include`.
const FILES: &[(&str, &str)] = files![
    "conv_implicit.wgsl"
    "epilogue.wgsl"
    "four_pixels.wgsl"
    "four_planes.wgsl"
    "gradient_scale.wgsl"
    "guard.wgsl"
    "input_pixel.wgsl"
    "invocation.wgsl"
    "phase.wgsl"
    "register_step.wgsl"
    "register_sums.wgsl"
    "store_gradient.wgsl"
    "subgroup_invocation.wgsl"
    "tile_step.wgsl"
    "tile_sums.wgsl"
    "transposed_block.wgsl"
    "tree.wgsl"
];

/// A shader with all includes resolved.
///
/// # Errors
/// The line with an unknown file, a cycle, or wrong parameters.
pub(super) fn included(source: &str) -> Result<String, String> {
    let find = |name: &str| FILES.iter().find(|(file, _)| *file == name).map(|(_, text)| *text);
    let mut text = String::with_capacity(2 * source.len());
    expand(source, &find, &mut Vec::new(), &mut text)?;
    Ok(text)
}

type Find<'a> = &'a dyn Fn(&str) -> Option<&'static str>;

/// Appends `source`, included through the files of `within`, to `text`.
fn expand(source: &str, find: Find<'_>, within: &mut Vec<String>, text: &mut String) -> Result<(), String> {
    for line in source.lines() {
        let Some(include) = line.trim().strip_prefix("#include ") else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let at_fault = |reason: &str| Err(format!("`{}` {reason}", line.trim()));
        let quoted = include.trim().strip_prefix('"').and_then(|rest| rest.split_once('"'));
        let Some((name, given)) = quoted else { return at_fault("has no file name in quotes") };
        let Some(file) = find(name) else { return at_fault("includes an unknown file") };
        if within.iter().any(|file| file == name) {
            return at_fault("includes a file that includes it");
        }
        let mut arguments = BTreeMap::new();
        for argument in given.split(';').filter(|argument| !argument.trim().is_empty()) {
            let Some((parameter, value)) = argument.split_once('=') else {
                return at_fault("has a parameter without a value");
            };
            arguments.insert(parameter.trim(), value.trim());
        }
        let (header, body) = parameters(file);
        if !header.iter().eq(arguments.keys()) {
            return at_fault(&format!("must set the parameters of the file: {}", header.join(", ")));
        }
        within.push(name.into());
        expand(&fill(&body, &arguments), find, within, text)?;
        within.pop();
    }
    Ok(())
}

/// The parameters of a file, sorted, and its other lines.
fn parameters(file: &str) -> (Vec<&str>, String) {
    let named = |line: &&str| line.trim().starts_with("#parameters ");
    let header = file.lines().filter(named).flat_map(|line| line.split_whitespace().skip(1));
    let mut header: Vec<&str> = header.collect();
    header.sort_unstable();
    let body: Vec<&str> = file.lines().filter(|line| !named(line)).collect();
    (header, body.join("\n"))
}

/// Replaces `{NAME}` by values; other braces are kept.
fn fill(text: &str, arguments: &BTreeMap<&str, &str>) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        let value = rest[1..].split_once('}').and_then(|(name, after)| Some((arguments.get(name)?, after)));
        match value {
            Some((value, after)) => {
                filled.push_str(value);
                rest = after;
            }
            None => {
                filled.push('{');
                rest = &rest[1..];
            }
        }
    }
    filled + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(source: &str) -> Result<String, String> {
        let find = |name: &str| match name {
            "leaf" => Some("leaf\n"),
            "sum" => Some("// A sum.\n#parameters left right\n{left} + {right}{i}\n"),
            "nested" => Some("#parameters of\n#include \"leaf\"\n#include \"sum\" left = {of}; right = 2\n"),
            "self" => Some("#include \"self\"\n"),
            "ring" => Some("#include \"other\"\n"),
            "other" => Some("#include \"ring\"\n"),
            _ => None,
        };
        let mut text = String::new();
        expand(source, &find, &mut Vec::new(), &mut text).map(|()| text)
    }

    #[test]
    fn include_is_replaced_by_the_file() {
        assert_eq!(with("a\n  #include \"leaf\"\nb\n").as_deref(), Ok("a\nleaf\nb\n"));
        // Including a file twice is not a cycle.
        assert_eq!(with("#include \"leaf\"\n#include \"leaf\"").as_deref(), Ok("leaf\nleaf\n"));
    }

    #[test]
    fn parameters_are_replaced() {
        let line = "#include \"sum\" left = a[{i} = b]; right = {left}";
        assert_eq!(with(line).as_deref(), Ok("// A sum.\na[{i} = b] + {left}{i}\n"));
        assert_eq!(with("#include \"nested\" of = f(x)").as_deref(), Ok("leaf\n// A sum.\nf(x) + 2{i}\n"));
    }

    #[test]
    fn invalid_includes_are_errors() {
        for (line, about) in [
            ("#include \"nothing\"", "unknown file"),
            ("#include leaf", "no file name in quotes"),
            ("#include \"leaf", "no file name in quotes"),
            ("#include \"self\"", "that includes it"),
            ("#include \"ring\"", "that includes it"),
            ("#include \"leaf\" x = 1", "must set the parameters"),
            ("#include \"sum\" left = 1", "must set the parameters of the file: left, right"),
            ("#include \"sum\" left = 1; right", "without a value"),
        ] {
            let error = with(&format!("before\n{line}\n")).expect_err("cannot be included");
            assert!(error.contains(about), "{line}: {error}");
        }
    }

    /// The list has every file of the folder.
    #[test]
    fn list_matches_the_folder() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders/include");
        let names = std::fs::read_dir(folder)
            .expect("the folder is there")
            .map(|file| file.expect("can be read").file_name().into_string().expect("a name in UTF-8"));
        let names: std::collections::BTreeSet<String> = names.collect();
        assert!(names.iter().map(String::as_str).eq(FILES.iter().map(|(name, _)| *name)));
    }
}
