//! Generates the WGSL of a pipeline from an operation's file.
//!
//! A file is a common part followed by sections, each begun by a line `//# NAME`; the text of a
//! kernel is the common part and the section of its entry point, which defines `fn NAME`. Lines
//! between `#if CONSTANT` (or `#if !CONSTANT`) and `#else` or `#endif` are kept or dropped by a
//! boolean constant of the kernel; lines between `#repeat NAME COUNT` and `#end` are written COUNT
//! times, which is a number or a constant of the kernel. A line `#include "FILE"` is replaced by a
//! file of `shaders/include` (see `include.rs`). The text is preceded by the kernel's constants,
//! `p` (its geometry), its bindings and `step` (see [`Step`](super::Step)), and `linear_index` and
//! `linear_group`.
//!
//! A binding `x` is an array of `x_element`, which is f32, or f16 if the tensor is stored as such.
//! Arithmetic is always f32: a file loads with `f32(x[i])` and stores with
//! `x[i] = x_element(value)`, or `vec4<f32>(x[i])` for vectors.

use std::fmt::Write;

use super::{Kernel, Scalar};
use crate::error::{Error, Result};

const PREAMBLE: &str = "
struct Step {
    seed: u32, seed_high: u32, step: u32, update: u32,
    lr: f32, momentum: f32, weight_decay: f32, loss_scale: f32,
    log_momentum: f32, divisor: f32, completion: f32, starts: u32,
}

// Linear workgroup and invocation indices, independent of how the dispatch was folded.
fn linear_group(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}
fn linear_index(group: vec3<u32>, groups: vec3<u32>, local: u32) -> u32 {
    return linear_group(group, groups) * WORKGROUP + local;
}
";

/// The WGSL of a kernel's pipeline. Kernels with equal text and entry point share a pipeline. With
/// `bake`, the geometry is compiled in.
///
/// # Errors
/// [`Error::Kernel`] for an invalid include, or a repetition whose count is neither a number nor a
/// constant of the kernel.
pub fn pipeline_text(kernel: &Kernel, bake: bool) -> Result<String> {
    let selected = select(kernel)?;
    let mut text = header(kernel);
    for (i, binding) in kernel.bindings.iter().enumerate() {
        let _ = writeln!(
            text,
            "alias {0}_element = {1};\n@group(0) @binding({i}) var<storage, read_write> {0}: array<{0}_element>;",
            binding.name, binding.element
        );
    }
    let count = kernel.bindings.len();
    let _ = writeln!(text, "@group(0) @binding({}) var<uniform> step: Step;", count + 1);
    if !kernel.geometry.is_empty() {
        text.push_str("struct Geometry {\n");
        for (name, value) in &kernel.geometry {
            let kind = if matches!(value, Scalar::F32(_)) { "f32" } else { "u32" };
            let _ = writeln!(text, "    {name}: {kind},");
        }
        text.push_str("}\n");
        if bake {
            let values: Vec<String> = kernel.geometry.iter().map(|(_, v)| literal(*v)).collect();
            let _ = writeln!(text, "const p = Geometry({});", values.join(", "));
        } else {
            let _ = writeln!(text, "@group(0) @binding({count}) var<uniform> p: Geometry;");
        }
    }
    text.push_str(&selected);
    Ok(text)
}

/// What precedes the bindings: enabled features, the workgroup's size, constants, common functions.
pub(super) fn header(kernel: &Kernel) -> String {
    let mut text = String::new();
    if kernel.bindings.iter().any(|b| b.element.contains("f16")) {
        text.push_str("enable f16;\n");
    }
    if kernel.cooperative {
        text.push_str("enable wgpu_cooperative_matrix;\n");
    }
    let [x, y, z] = kernel.workgroup;
    // Writing to a `String` cannot fail.
    let _ = writeln!(
        text,
        "const WORKGROUP_X = {x}u;\nconst WORKGROUP_Y = {y}u;\nconst WORKGROUP_Z = {z}u;\nconst WORKGROUP = {}u;",
        x.saturating_mul(y).saturating_mul(z)
    );
    for (name, value) in &kernel.constants {
        let _ = match value {
            Scalar::U32(v) => writeln!(text, "const {name} = {v}u;"),
            Scalar::F32(v) => writeln!(text, "const {name} = {};", float(*v)),
            Scalar::Bool(v) => writeln!(text, "const {name} = {v};"),
        };
    }
    text.push_str(PREAMBLE);
    text
}

/// The geometry as the bytes of its uniform.
pub(crate) fn geometry_bytes(kernel: &Kernel) -> Vec<u8> {
    let mut bytes: Vec<u8> = kernel.geometry.iter().flat_map(|(_, v)| v.word().to_le_bytes()).collect();
    // Uniform structs are padded to 16 bytes.
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    bytes
}

fn literal(value: Scalar) -> String {
    match value {
        Scalar::U32(v) => format!("{v}u"),
        Scalar::F32(v) => float(v),
        Scalar::Bool(v) => format!("{}u", u32::from(v)),
    }
}

/// A literal that is exactly this f32. WGSL has no non-finite literals; [`Kernel::fault`] rejects
/// these.
fn float(v: f32) -> String {
    format!("{v:e}f")
}

/// The common part and the section of the kernel's entry point, with conditions and repetitions
/// resolved.
pub(super) fn select(kernel: &Kernel) -> Result<String> {
    let source = kernel.whole_source()?;
    let mut wanted = true;
    let mut conditions: Vec<bool> = Vec::new();
    let mut lines = Vec::new();
    for line in source.lines() {
        let trimmed = line.trim();
        if let Some(section) = trimmed.strip_prefix("//#") {
            wanted = section.split_whitespace().any(|name| name == kernel.entry);
        } else if let Some(condition) = trimmed.strip_prefix("#if ") {
            let (name, expected) =
                condition.strip_prefix('!').map_or((condition, true), |negated| (negated, false));
            let value = kernel.constants.iter().any(|c| *c == (name.trim(), Scalar::Bool(true)));
            conditions.push(value == expected);
        } else if trimmed == "#else" {
            if let Some(last) = conditions.last_mut() {
                *last = !*last;
            }
        } else if trimmed == "#endif" {
            conditions.pop();
        } else if wanted && conditions.iter().all(|&c| c) {
            lines.push(line);
        }
    }
    let mut text = String::new();
    repeat(kernel, &lines, &mut Vec::new(), &mut text)?;
    Ok(text)
}

/// Writes lines, with each block between `#repeat NAME COUNT` and `#end` repeated COUNT times and
/// `{NAME}` replaced by the index. Drivers may not unroll loops, and do not keep arrays that are
/// indexed in loops in registers.
fn repeat<'a>(
    kernel: &Kernel,
    lines: &[&'a str],
    numbers: &mut Vec<(&'a str, u32)>,
    text: &mut String,
) -> Result<()> {
    let mut index = 0;
    while let Some(line) = lines.get(index) {
        index += 1;
        let Some(header) = line.trim().strip_prefix("#repeat ") else {
            let replaced = numbers.iter().fold((*line).to_string(), |line, (name, number)| {
                line.replace(&format!("{{{name}}}"), &number.to_string())
            });
            text.push_str(&replaced);
            text.push('\n');
            continue;
        };
        let mut depth = 1;
        let (start, mut end) = (index, lines.len());
        while let Some(line) = lines.get(index) {
            index += 1;
            let trimmed = line.trim();
            depth += i32::from(trimmed.starts_with("#repeat ")) - i32::from(trimmed == "#end");
            if depth == 0 {
                end = index - 1;
                break;
            }
        }
        let (name, count) = header.split_once(' ').unwrap_or((header, ""));
        let constant = || {
            kernel.constants.iter().find_map(|(constant, value)| match value {
                Scalar::U32(value) if *constant == count.trim() => Some(*value),
                _ => None,
            })
        };
        let count = count.trim().parse().ok().or_else(constant);
        let count = count.ok_or_else(|| {
            let reason =
                format!("`{}`: the count is neither a number nor a constant of the kernel", line.trim());
            Error::Kernel { kernel: kernel.label.clone(), reason, source: None }
        })?;
        for number in 0..count {
            numbers.push((name, number));
            repeat(kernel, &lines[start..end], numbers, text)?;
            numbers.pop();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Operand, Operands, Slot};
    use crate::tensor::Spec;

    const NOTHING: Operands<'_> = Operands { layer: "layer", inputs: &[], outputs: &[] };
    const FILE: &str = "common\n//# a\nin a\n#if FAST\nfast\n#else\nslow\n#endif\n//# b c\nin b\n";

    #[test]
    fn sections_and_conditions_are_selected() {
        let kernel = Kernel::new(&NOTHING, FILE, "a").constant("FAST", true);
        assert_eq!(select(&kernel).ok().as_deref(), Some("common\nin a\nfast\n"));
        let kernel = Kernel::new(&NOTHING, FILE, "a").constant("FAST", false);
        assert_eq!(select(&kernel).ok().as_deref(), Some("common\nin a\nslow\n"));
        assert_eq!(select(&Kernel::new(&NOTHING, FILE, "c")).ok().as_deref(), Some("common\nin b\n"));
    }

    #[test]
    fn binding_types_follow_tensor_elements() {
        let inputs = [Operand::dense(Spec::f16([8])), Operand::dense(Spec::f32([8]))];
        let operands = Operands { layer: "layer", inputs: &inputs, outputs: &[] };
        let kernel = Kernel::new(&operands, "", "a")
            .bind("x", Slot::Input(0))
            .bind_as("y", Slot::Input(0), "vec4<f32>")
            .bind("z", Slot::Input(1))
            .bind_as("words", Slot::Scratch(0), "u32");
        let text = pipeline_text(&kernel, true).expect("a text");
        assert!(text.starts_with("enable f16;"), "{text}");
        for (name, element) in [("x", "f16"), ("y", "vec4<f16>"), ("z", "f32"), ("words", "u32")] {
            assert!(text.contains(&format!("alias {name}_element = {element};")), "{text}");
            assert!(text.contains(&format!("{name}: array<{name}_element>;")), "{text}");
        }
    }

    #[test]
    fn repeat_blocks_are_unrolled() {
        let file = "#repeat i N\na{i}\n#repeat j 2\nb{i}{j}\n#end\n#end\nc\n";
        let kernel = Kernel::new(&NOTHING, file, "a").constant("N", 2u32);
        assert_eq!(select(&kernel).ok().as_deref(), Some("a0\nb00\nb01\na1\nb10\nb11\nc\n"));
        // A block without `#end` extends to the end.
        for (file, written) in [("#repeat i N\na{i}", "a0\na1\n"), ("#repeat i N", "")] {
            let text = select(&Kernel::new(&NOTHING, file, "a").constant("N", 2u32));
            assert_eq!(text.ok().as_deref(), Some(written));
        }
    }

    /// Unknown counts must not drop lines silently.
    #[test]
    fn unknown_repeat_counts_are_errors() {
        for (file, about) in [
            ("#repeat i M\na{i}\n#end\n", "`#repeat i M`"),
            ("#repeat i\na{i}\n#end\n", "`#repeat i`"),
            ("#repeat i FLAG\n#end\n", "`#repeat i FLAG`"),
            ("#include \"nowhere.wgsl\"\n", "nowhere.wgsl"),
        ] {
            let kernel = Kernel::new(&NOTHING, file, "a").constant("N", 2u32).constant("FLAG", true);
            let error = pipeline_text(&kernel, true).expect_err("has no text").to_string();
            assert!(error.contains(about) && error.contains("layer a"), "{error}");
        }
        let dropped = "#if FLAG\n#repeat i M\n#end\n#endif\n//# b\n#repeat i M\n#end\n";
        assert_eq!(select(&Kernel::new(&NOTHING, dropped, "a")).ok().as_deref(), Some(""));
    }
}
