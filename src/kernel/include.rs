//! Lines `#include "FILE"` of a shader: the text of a file of `shaders/include` in their place.
//!
//! What a file leaves open it names in a line `#parameters NAME ...`; who includes it says what each
//! of them is, `#include "FILE" NAME = TEXT; NAME = TEXT`, and TEXT takes the place of `{NAME}`.
//! That may have numbers of the repetitions around it, `{i}`. Files may include others; sections
//! and conditions go on into them and out of them as if their text stood there.

use std::collections::BTreeMap;

macro_rules! files {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../shaders/include/", $name)))),*]
    };
}

/// The files that can be included.
const FILES: &[(&str, &str)] = files![
    "conv_implicit.wgsl"
    "epilogue.wgsl"
    "four_pixels.wgsl"
    "four_planes.wgsl"
    "gradient_scale.wgsl"
    "guard.wgsl"
    "invocation.wgsl"
    "phase.wgsl"
    "register_step.wgsl"
    "register_sums.wgsl"
    "store_gradient.wgsl"
    "subgroup_invocation.wgsl"
    "tile_step.wgsl"
    "tile_sums.wgsl"
    "tree.wgsl"
];

/// A shader with all that it includes.
///
/// # Errors
/// The line that includes what there is not, or what includes it, or with other parameters than it
/// has.
pub(super) fn included(source: &str) -> Result<String, String> {
    let find = |name: &str| FILES.iter().find(|(file, _)| *file == name).map(|(_, text)| *text);
    let mut text = String::with_capacity(2 * source.len());
    expand(source, &find, &mut Vec::new(), &mut text)?;
    Ok(text)
}

type Find<'a> = &'a dyn Fn(&str) -> Option<&'static str>;

/// Appends a text to another, which is `within` these files.
fn expand(source: &str, find: Find<'_>, within: &mut Vec<String>, text: &mut String) -> Result<(), String> {
    for line in source.lines() {
        let Some(include) = line.trim().strip_prefix("#include ") else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let at_fault = |reason: &str| Err(format!("`{}` {reason}", line.trim()));
        let quoted = include.trim().strip_prefix('"').and_then(|rest| rest.split_once('"'));
        let Some((name, given)) = quoted else { return at_fault("names no file in quotes") };
        let Some(file) = find(name) else { return at_fault("includes a file that there is not") };
        if within.iter().any(|file| file == name) {
            return at_fault("includes a file in itself");
        }
        let mut arguments = BTreeMap::new();
        for argument in given.split(';').filter(|argument| !argument.trim().is_empty()) {
            let Some((parameter, value)) = argument.split_once('=') else {
                return at_fault("gives a parameter no value");
            };
            arguments.insert(parameter.trim(), value.trim());
        }
        let (header, body) = parameters(file);
        if !header.iter().eq(arguments.keys()) {
            return at_fault(&format!("gives other parameters than the file has: {}", header.join(", ")));
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

/// A text with values in the place of `{NAME}`; what else is in braces stays.
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
    fn a_file_stands_in_the_place_of_its_line() {
        assert_eq!(with("a\n  #include \"leaf\"\nb\n").as_deref(), Ok("a\nleaf\nb\n"));
        // The same file twice is no cycle.
        assert_eq!(with("#include \"leaf\"\n#include \"leaf\"").as_deref(), Ok("leaf\nleaf\n"));
    }

    #[test]
    fn parameters_are_filled_in() {
        let line = "#include \"sum\" left = a[{i} = b]; right = {left}";
        assert_eq!(with(line).as_deref(), Ok("// A sum.\na[{i} = b] + {left}{i}\n"));
        assert_eq!(with("#include \"nested\" of = f(x)").as_deref(), Ok("leaf\n// A sum.\nf(x) + 2{i}\n"));
    }

    #[test]
    fn includes_that_are_missing_or_cyclic_are_errors() {
        for (line, about) in [
            ("#include \"nothing\"", "there is not"),
            ("#include leaf", "no file in quotes"),
            ("#include \"leaf", "no file in quotes"),
            ("#include \"self\"", "in itself"),
            ("#include \"ring\"", "in itself"),
            ("#include \"leaf\" x = 1", "other parameters"),
            ("#include \"sum\" left = 1", "other parameters than the file has: left, right"),
            ("#include \"sum\" left = 1; right", "no value"),
        ] {
            let error = with(&format!("before\n{line}\n")).expect_err("cannot be included");
            assert!(error.contains(about), "{line}: {error}");
        }
    }

    /// Every file of the folder can be included, and includes what there is.
    #[test]
    fn the_folder_is_listed() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders/include");
        let names = std::fs::read_dir(folder)
            .expect("the folder is there")
            .map(|file| file.expect("can be read").file_name().into_string().expect("a name in UTF-8"));
        let names: std::collections::BTreeSet<String> = names.collect();
        assert!(names.iter().map(String::as_str).eq(FILES.iter().map(|(name, _)| *name)));
    }
}
