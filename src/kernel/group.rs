//! One dispatch for several kernels: the WGSL of a pipeline that finds its problem in a table.
//!
//! Kernels of the same text that do not depend on each other run as one dispatch. Their geometry is
//! in a table, a uniform; a workgroup finds its problem by its index and then runs the entry point
//! as if it had been dispatched alone. The text of the entry point is changed so that
//!
//! - `p` is the problem of the workgroup, a parameter in the entry point (so that its values are
//!   uniform by WGSL's rules, as loops around barriers need) and a private variable elsewhere,
//! - `workgroup_id` and `num_workgroups` are those within the problem,
//! - `x[i]` is `x[p.x_base + (i)]`: a binding covers the tensors of all problems.
//!
//! The number of problems is not part of the text, so a pipeline serves groups of any size.

use std::fmt::Write;

use super::{Kernel, Profile, Scalar, source};
use crate::error::{Error, Result};

/// Maximum problems of a dispatch. Their table is a uniform, of which every device has 16 KiB.
pub const MOST_PROBLEMS: usize = 64;

/// Name of the generated entry point.
pub(crate) const ENTRY: &str = "grouped";

/// Words of a problem besides geometry and bases: problems, first workgroup, workgroup counts.
const FIELDS: [&str; 5] = ["problems", "first", "groups_x", "groups_y", "groups_z"];

/// A kernel in a group: where its tensors start in the bindings of the group.
#[derive(Clone, Debug)]
pub(crate) struct Problem<'a> {
    pub kernel: &'a Kernel,
    /// For each binding, elements of its array before the tensor.
    pub bases: Vec<u32>,
}

/// Words of a problem in the table.
fn words(kernel: &Kernel) -> usize {
    // Elements of arrays in uniforms are multiples of 16 bytes.
    (kernel.geometry.len() + kernel.bindings.len() + FIELDS.len()).next_multiple_of(4)
}

/// Problems that a table of this kernel has room for.
pub(crate) fn most_problems(kernel: &Kernel) -> usize {
    MOST_PROBLEMS.min(16384 / (4 * words(kernel)))
}

/// Workgroups of a kernel.
pub(crate) fn workgroups(kernel: &Kernel) -> u64 {
    kernel.groups.iter().map(|n| u64::from(*n)).product()
}

/// The grid of a dispatch of this many workgroups in two dimensions, for `linear_group`.
pub(crate) fn grid(workgroups: u64) -> [u32; 3] {
    let most = u64::from(super::MOST_GROUPS);
    let rows = workgroups.div_ceil(most).max(1);
    let count = |n: u64| u32::try_from(n.max(1)).unwrap_or(u32::MAX);
    [count(workgroups.div_ceil(rows)), count(rows), 1]
}

/// The table of a group as the bytes of its uniform.
pub(crate) fn table(problems: &[Problem<'_>]) -> Vec<u8> {
    let count = u32::try_from(problems.len()).unwrap_or(u32::MAX);
    let (mut bytes, mut first, mut size) = (Vec::new(), 0u32, 0);
    for Problem { kernel, bases } in problems {
        let [x, y, z] = kernel.groups;
        let fields = [count, first, x, y, z];
        let geometry = kernel.geometry.iter().map(|(_, value)| value.word());
        let before = bytes.len();
        bytes.extend(geometry.chain(bases.iter().copied()).chain(fields).flat_map(u32::to_le_bytes));
        bytes.resize(before + 4 * words(kernel), 0);
        first = first.saturating_add(u32::try_from(workgroups(kernel)).unwrap_or(u32::MAX));
        size = 4 * words(kernel) * most_problems(kernel);
    }
    bytes.resize(size.max(bytes.len()), 0);
    bytes
}

/// Whether two kernels can be problems of one dispatch: everything but geometry and the number of
/// workgroups is equal.
pub(crate) fn alike(a: &Kernel, b: &Kernel) -> bool {
    let names =
        |k: &Kernel| k.geometry.iter().map(|(name, value)| (*name, value.is_float())).collect::<Vec<_>>();
    let bindings = |k: &Kernel| k.bindings.iter().map(|b| (b.name, b.element)).collect::<Vec<_>>();
    a.groupable
        && b.groupable
        && std::ptr::eq(a.source, b.source)
        && a.entry == b.entry
        && a.constants == b.constants
        && a.workgroup == b.workgroup
        && a.cooperative == b.cooperative
        && names(a) == names(b)
        && bindings(a) == bindings(b)
}

/// The WGSL of a pipeline for groups of kernels like this one, with the entry point
/// `grouped`.
/// Binding i shares the array of binding `arrays[i]`, which is i itself unless tensors of both are
/// in one buffer and overlap there.
///
/// # Errors
/// [`Error::Kernel`] as [`pipeline_text`](super::pipeline_text), or if the entry point's parameters
/// are not those that a group can set.
pub fn grouped_text(kernel: &Kernel, arrays: &[usize]) -> Result<String> {
    let refused = |reason: String| Error::Kernel { kernel: kernel.label.clone(), reason, source: None };
    let mut text = source::header(kernel);
    for (i, binding) in kernel.bindings.iter().enumerate() {
        let _ = writeln!(text, "alias {}_element = {};", binding.name, binding.element);
        if arrays.get(i).is_none_or(|array| *array == i) {
            let _ = writeln!(
                text,
                "@group(0) @binding({i}) var<storage, read_write> {0}: array<{0}_element>;",
                binding.name
            );
        }
    }
    let count = kernel.bindings.len();
    let _ = writeln!(text, "@group(0) @binding({}) var<uniform> step: Step;", count + 1);
    text.push_str("struct Problem {\n");
    for (name, value) in &kernel.geometry {
        let _ = writeln!(text, "    {name}: {},", if value.is_float() { "f32" } else { "u32" });
    }
    for binding in &kernel.bindings {
        let _ = writeln!(text, "    {}_base: u32,", binding.name);
    }
    for field in FIELDS {
        let _ = writeln!(text, "    {field}: u32,");
    }
    let used = kernel.geometry.len() + count + FIELDS.len();
    for pad in used..words(kernel) {
        let _ = writeln!(text, "    pad{pad}: u32,");
    }
    let _ = writeln!(
        text,
        "}}\n@group(0) @binding({count}) var<uniform> problems: array<Problem, {}>;\nvar<private> p: Problem;",
        most_problems(kernel)
    );
    text.push_str(&readers(kernel, arrays));
    let selected = based(kernel, arrays, &source::select(kernel)?);
    let (body, entry) = inner(kernel, &selected).map_err(refused)?;
    text.push_str(&body);
    text.push_str(&entry);
    Ok(text)
}

/// What an open bracket is.
enum Bracket {
    /// The index of something that is no binding.
    Plain,
    /// An index that a base was added to.
    Base,
    /// The argument of a function that reads an element.
    Call,
}

/// Functions that read elements of bindings from arrays of another type: vectors from scalars, or
/// scalars from vectors.
fn readers(kernel: &Kernel, arrays: &[usize]) -> String {
    let mut text = String::new();
    for (own, array) in kernel.bindings.iter().zip(arrays) {
        let Some(array) = kernel.bindings.get(*array).filter(|array| array.element != own.element) else {
            continue;
        };
        let (name, from, element) = (own.name, array.name, own.element);
        let _ = if element.starts_with("vec4") {
            writeln!(
                text,
                "fn {name}_at(i: u32) -> {element} {{\n    let at = 4u * (p.{name}_base + i);\n    return {element}({from}[at], {from}[at + 1u], {from}[at + 2u], {from}[at + 3u]);\n}}"
            )
        } else {
            writeln!(
                text,
                "fn {name}_at(i: u32) -> {element} {{\n    let at = p.{name}_base + i;\n    return {from}[at / 4u][at % 4u];\n}}"
            )
        };
    }
    text
}

/// The WGSL of a kernel by itself as a device with this profile compiles it, if it is proven, and
/// the name of its entry point.
///
/// # Errors
/// [`Error::Kernel`] as [`pipeline_text`](super::pipeline_text) and [`grouped_text`].
pub fn text_for(kernel: &Kernel, profile: &Profile) -> Result<(String, &'static str)> {
    if !(profile.grouped && kernel.groupable) {
        return Ok((source::pipeline_text(kernel, profile.bake)?, kernel.entry));
    }
    let arrays: Vec<usize> = (0..kernel.bindings.len()).collect();
    Ok((grouped_text(kernel, &arrays)?, ENTRY))
}

/// The text with the base of its problem added to every index of a binding.
fn based(kernel: &Kernel, arrays: &[usize], text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 4);
    // Indices may contain other arrays: each open base is closed at its own bracket.
    let mut open: Vec<Bracket> = Vec::new();
    let mut word = String::new();
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut comment = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if comment || (c == '/' && chars.peek() == Some(&'/')) {
            comment = c != '\n';
            if comment {
                continue;
            }
        }
        if is_word(c) {
            word.push(c);
            continue;
        }
        let binding = (c == '[').then(|| kernel.bindings.iter().position(|b| b.name == word)).flatten();
        match binding.and_then(|i| Some((&kernel.bindings[i], kernel.bindings.get(*arrays.get(i)?)?))) {
            Some((own, array)) if own.element == array.element => {
                let _ = write!(out, "{}[p.{word}_base + (", array.name);
                open.push(Bracket::Base);
            }
            Some(_) => {
                let _ = write!(out, "{word}_at(");
                open.push(Bracket::Call);
            }
            None => {
                out.push_str(&word);
                match c {
                    '[' => open.push(Bracket::Plain),
                    ']' => match open.pop() {
                        Some(Bracket::Base) => out.push(')'),
                        Some(Bracket::Call) => {
                            out.push(')');
                            word.clear();
                            continue;
                        }
                        _ => {}
                    },
                    _ => {}
                }
                out.push(c);
            }
        }
        word.clear();
    }
    out.push_str(&word);
    out
}

/// The text with its entry point as a function of the problem, and the entry point that calls it.
fn inner(kernel: &Kernel, text: &str) -> Result<(String, String), String> {
    let missing = || format!("`{}` is not an entry point of its shader", kernel.entry);
    let head = format!("fn {}(", kernel.entry);
    let at = text.find(&head).ok_or_else(missing)?;
    let attributes = text[..at].rfind("@compute").ok_or_else(missing)?;
    let rest = &text[at + head.len()..];
    let body = rest.find(") {").ok_or_else(missing)?;
    let (mut parameters, mut arguments) = (Vec::new(), Vec::new());
    let mut received = vec![
        "@builtin(workgroup_id) group_of_dispatch: vec3<u32>".to_string(),
        "@builtin(num_workgroups) groups_of_dispatch: vec3<u32>".to_string(),
    ];
    for parameter in split(&rest[..body]) {
        let outside = || format!("its parameter `{parameter}` is not one that a group of kernels can set");
        let (builtin, declared) =
            parameter.strip_prefix("@builtin(").and_then(|rest| rest.split_once(')')).ok_or_else(outside)?;
        let declared = declared.trim();
        let (name, _) = declared.split_once(':').ok_or_else(outside)?;
        match builtin {
            "workgroup_id" => arguments.push("group_of_problem".to_string()),
            "num_workgroups" => arguments.push("groups_of_problem".to_string()),
            "local_invocation_index"
            | "local_invocation_id"
            | "subgroup_id"
            | "subgroup_invocation_id"
            | "subgroup_size" => {
                received.push(format!("@builtin({builtin}) {declared}"));
                arguments.push(name.to_string());
            }
            _ => return Err(outside()),
        }
        parameters.push(declared.to_string());
    }
    let called = format!(
        "{}fn {}(p: Problem, {}{}",
        &text[..attributes],
        kernel.entry,
        parameters.join(", "),
        &rest[body..]
    );
    let entry = format!(
        "
@compute @workgroup_size(WORKGROUP_X, WORKGROUP_Y, WORKGROUP_Z)
fn {ENTRY}(
    {}
) {{
    let at = linear_group(group_of_dispatch, groups_of_dispatch);
    var low = 0u;
    var high = problems[0].problems;
    while high - low > 1u {{
        let middle = (low + high) / 2u;
        if problems[middle].first <= at {{ low = middle; }} else {{ high = middle; }}
    }}
    let problem = problems[low];
    let inner = at - problem.first;
    let row = inner / problem.groups_x;
    let groups_of_problem = vec3(problem.groups_x, problem.groups_y, problem.groups_z);
    let layer = row / problem.groups_y;
    let group_of_problem = vec3(inner - row * problem.groups_x, row - layer * problem.groups_y, layer);
    // Workgroups past the end of a dispatch in two dimensions.
    if layer >= problem.groups_z {{ return; }}
    p = problem;
    {}(problem, {});
}}
",
        received.join(",\n    "),
        kernel.entry,
        arguments.join(", ")
    );
    Ok((called, entry))
}

/// Parameters at commas outside of `<>`.
fn split(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|parameter| !parameter.is_empty())
}

impl Scalar {
    /// Its bits in a uniform.
    pub(crate) fn word(self) -> u32 {
        match self {
            Self::U32(v) => v,
            Self::F32(v) => v.to_bits(),
            Self::Bool(v) => u32::from(v),
        }
    }

    fn is_float(self) -> bool {
        matches!(self, Self::F32(_))
    }
}
