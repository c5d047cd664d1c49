//! Makes the WGSL of a pipeline from an operation's file.
//!
//! A file is a common part followed by sections, each begun by a line `//# NAME`; the text of a kernel is the common part and
//! the section of its entry point, which defines `fn NAME`. Lines between `#if CONSTANT` (or `#if !CONSTANT`) and `#else` or `#endif` are
//! kept or dropped by a boolean constant of the kernel. In front of that stand what the kernel says about itself: constants,
//! `p` (its geometry), its bindings and `step` (see [`Step`](super::Step)), and `linear_index` and `linear_group`.

use std::fmt::Write;

use super::{Kernel, Scalar};

const PREAMBLE: &str = "
struct Step {
    seed: u32, seed_high: u32, step: u32, update: u32,
    rate: f32, momentum: f32, decay: f32, loss_scale: f32,
}

// Workgroups and invocations numbered in one line, however the dispatch was folded.
fn linear_group(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}
fn linear_index(group: vec3<u32>, groups: vec3<u32>, local: u32) -> u32 {
    return linear_group(group, groups) * WORKGROUP + local;
}
";

/// The WGSL of a kernel's pipeline. Kernels with equal text and entry point share a pipeline. With `bake`, the geometry is
/// part of the text.
pub fn pipeline_text(kernel: &Kernel, bake: bool) -> String {
    let mut text = String::new();
    if kernel.bindings.iter().any(|b| b.element.contains("f16")) {
        text.push_str("enable f16;\n");
    }
    let [x, y, z] = kernel.workgroup;
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "const WORKGROUP_X = {x}u;\nconst WORKGROUP_Y = {y}u;\nconst WORKGROUP_Z = {z}u;\nconst WORKGROUP = {}u;",
        x * y * z
    );
    for (name, value) in &kernel.constants {
        let _ = match value {
            Scalar::U32(v) => writeln!(text, "const {name} = {v}u;"),
            Scalar::F32(v) => writeln!(text, "const {name} = {};", float(*v)),
            Scalar::Bool(v) => writeln!(text, "const {name} = {v};"),
        };
    }
    text.push_str(PREAMBLE);
    for (i, binding) in kernel.bindings.iter().enumerate() {
        let _ = writeln!(
            text,
            "@group(0) @binding({i}) var<storage, read_write> {}: array<{}>;",
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
    text.push_str(&select(kernel));
    text
}

/// The geometry as the bytes of its uniform.
pub(crate) fn geometry_bytes(kernel: &Kernel) -> Vec<u8> {
    let word = |v: &Scalar| match v {
        Scalar::U32(v) => *v,
        Scalar::F32(v) => v.to_bits(),
        Scalar::Bool(v) => u32::from(*v),
    };
    let mut bytes: Vec<u8> = kernel.geometry.iter().flat_map(|(_, v)| word(v).to_le_bytes()).collect();
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

/// A literal that gives back exactly this f32.
fn float(v: f32) -> String {
    format!("{v:e}f")
}

/// The common part and the section of the kernel's entry point, with the conditions resolved.
fn select(kernel: &Kernel) -> String {
    let mut text = String::new();
    let mut wanted = true;
    let mut conditions: Vec<bool> = Vec::new();
    for line in kernel.source.lines() {
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
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "common\n//# a\nin a\n#if FAST\nfast\n#else\nslow\n#endif\n//# b c\nin b\n";

    #[test]
    fn a_section_and_its_conditions_are_selected() {
        let kernel = Kernel::new("layer", FILE, "a").constant("FAST", true);
        assert_eq!(select(&kernel), "common\nin a\nfast\n");
        let kernel = Kernel::new("layer", FILE, "a").constant("FAST", false);
        assert_eq!(select(&kernel), "common\nin a\nslow\n");
        assert_eq!(select(&Kernel::new("layer", FILE, "c")), "common\nin b\n");
    }
}
