//! The matrix as a page of Markdown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::families::{Family, Lab, Vendor};
use crate::kernels::Plans;
use crate::matrix::{self, Column, Device, Figures, Row, broken};
use crate::validators::Verdict;

/// What was not available, and validators that did not run.
pub fn unavailable(lab: &Lab, columns: &[Column], verdicts: &[Verdict]) -> Vec<String> {
    let validators = verdicts.iter().filter_map(|v| Some(format!("{}: {}", v.name, v.missing.as_ref()?)));
    matrix::unavailable(lab, columns).into_iter().chain(validators).collect()
}

/// How a page was made.
pub struct Run<'a> {
    /// The command line.
    pub command: &'a str,
    /// Batch size of the single convolutions.
    pub batch: usize,
    /// Which pipelines of plans were compiled and validated.
    pub plans: Plans,
}

/// The page.
pub fn page(lab: &Lab, columns: &[Column], verdicts: &[Verdict], run: &Run<'_>) -> String {
    let Run { command, batch, plans } = run;
    let mut text = format!(
        "# GPUs\n\n\
        incept's default kernels as the compilers of GPU drivers translate them, without the hardware: registers, spills, occupancy, instructions. Nothing here was run, and no\n\
        figure is a time. [benches/drivers](../benches/drivers/README.md) brings the compilers into a folder and writes this page:\n\n\
        ```sh\n(cd benches/drivers && ./setup && {command})\n```\n\n"
    );
    text.push_str(RULES);
    drivers(&mut text, lab, columns);
    summary(&mut text, columns, *plans);
    validators(&mut text, verdicts);
    text.push_str("\n## Not available\n\n");
    let missing = unavailable(lab, columns, verdicts);
    missing.iter().chain([&NVIDIA.to_string()]).for_each(|line| {
        let _ = writeln!(text, "- {line}");
    });
    let _ = write!(
        text,
        "\n## Single convolutions\n\n\
        The default kernel of each layer and direction in f32 at batch {batch}, with WebGPU's default limits and with the limits of the device. Registers are vector registers (AMD)\n\
        or live registers (Intel) of an invocation; spills are registers (AMD) or instructions (Intel). **Bold**: a rule is broken.\n"
    );
    for column in columns {
        if let Ok((device, rows)) = &column.result {
            convolutions(&mut text, column.family, device, rows);
        }
    }
    text
}

const RULES: &str = "\
Rules, which `--check` enforces:

- No default kernel spills on any family.
- On GCN no default kernel has more than 128 vector registers, which leave two subgroups per SIMD.
- spv-val and DXC accept every pipeline that a plan of either variant uses.
";

const PLANS: &str = "pipelines of plans (training and inference of both variants, at full width and 224 pixels and at a quarter of the width and 64 pixels)";

const NVIDIA: &str = "NVIDIA's compilers read PTX and CUDA, and nothing here writes either from WGSL; times on an H200 are in [performance.md](performance.md)";

fn drivers(text: &mut String, lab: &Lab, columns: &[Column]) {
    let mut used: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for column in columns {
        if let Ok((device, _)) = &column.result {
            used.entry(&device.driver).or_default().push(column.family.name);
        }
    }
    text.push_str("\n## Drivers\n\n| driver | families |\n|---|---|\n");
    for (driver, families) in used {
        let _ = writeln!(text, "| {driver} | {} |", families.join(", "));
    }
    let parts = lab.parts().0;
    if !parts.is_empty() {
        let _ = writeln!(text, "\nBrought by `setup`: {}.", parts.join("; "));
    }
}

fn summary(text: &mut String, columns: &[Column], plans: Plans) {
    let _ = write!(
        text,
        "\n## Summary\n\n\
        Kernels are the single convolutions below{}\n\n\
        | family | products | class | kernels | most registers | least occupancy | that spill | that break a rule |\n|---|---|---|---|---|---|---|---|\n",
        match plans {
            Plans::None => ".".to_string(),
            Plans::First => format!(" and {PLANS}; of those that differ only in numbers, the first."),
            Plans::All => format!(" and {PLANS}."),
        }
    );
    for Column { family, result } in columns {
        let Ok((_, rows)) = result else { continue };
        let figures = || rows.iter().filter_map(|row| row.figures.as_ref().ok());
        let least = match family.vendor {
            Vendor::Amd => {
                figures().filter_map(|f| f.occupancy).reduce(f64::min).map(|n| format!("{n} waves"))
            }
            Vendor::Intel => figures().map(|f| f.subgroup).min().map(|n| format!("SIMD{n}")),
        };
        let spilled = figures().filter(|f| f.spills.unwrap_or(0.0) + f.fills.unwrap_or(0.0) > 0.0).count();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {spilled} | {} |",
            family.name,
            family.products,
            family.class,
            rows.len(),
            number(figures().filter_map(|f| f.registers).reduce(f64::max)),
            least.unwrap_or_default(),
            rows.iter().filter(|row| broken(family, row).is_some()).count()
        );
    }
    let entries = worst(columns);
    if !entries.is_empty() {
        text.push_str("\nPipelines of plans that break a rule, by implementation:\n\n| implementation | pipelines | families | the worst |\n|---|---|---|---|\n");
        for (implementation, (count, families, reason, _)) in entries {
            let families: Vec<&str> = families.into_iter().collect();
            let _ = writeln!(text, "| {implementation} | {count} | {} | {reason} |", families.join(", "));
        }
    }
}

/// Count, families, worst reason and its spills.
type Worst<'a> = (usize, BTreeSet<&'static str>, String, f64);

/// Pipelines of plans that break a rule, by implementation.
fn worst(columns: &[Column]) -> BTreeMap<&str, Worst<'_>> {
    let mut entries: BTreeMap<&str, Worst<'_>> = BTreeMap::new();
    for Column { family, result } in columns {
        let Ok((_, rows)) = result else { continue };
        for row in rows.iter().filter(|row| row.place.is_empty()) {
            let Some(reason) = broken(family, row) else { continue };
            let spills = row.figures.as_ref().ok().and_then(|f| f.spills).unwrap_or(f64::MAX);
            let known =
                entries.entry(&row.implementation).or_insert((0, BTreeSet::new(), String::new(), -1.0));
            known.0 += 1;
            known.1.insert(family.name);
            if spills > known.3 {
                (known.2, known.3) = (format!("{}: {}, {reason}", family.name, row.kernel), spills);
            }
        }
    }
    entries
}

fn validators(text: &mut String, verdicts: &[Verdict]) {
    if verdicts.is_empty() {
        text.push_str("\n## Validators\n\nThey run with `--check` only.\n");
        return;
    }
    text.push_str(
        "\n## Validators\n\n\
        Every class of device, f32 and f16, and cooperative matrices.\n\n| validator | accepted | rejected | skipped |\n|---|---|---|---|\n",
    );
    for verdict in verdicts.iter().filter(|v| v.missing.is_none()) {
        let skipped = verdict.skipped.iter().map(|(reason, count)| format!("{count}: {reason}"));
        let skipped = skipped.collect::<Vec<_>>().join("; ");
        let (accepted, rejected) = (verdict.accepted, verdict.rejected.len());
        let _ = writeln!(text, "| {} | {accepted} | {rejected} | {skipped} |", verdict.name);
    }
    for verdict in verdicts {
        for message in verdict.rejected.iter().take(10) {
            let _ = writeln!(text, "\n{}: `{message}`", verdict.name);
        }
    }
}

fn convolutions(text: &mut String, family: &Family, device: &Device, rows: &[Row]) {
    let unit = match family.vendor {
        Vendor::Amd => "waves per SIMD",
        Vendor::Intel => "SIMD width",
    };
    let _ = write!(
        text,
        "\n### {}: {}\n\nThe driver's name for the device: {}.\n\n\
        | layer and direction | implementation | limits | registers | spills / fills | {unit} | instructions | workgroup memory |\n|---|---|---|---|---|---|---|---|\n",
        family.name, family.products, device.name
    );
    for row in rows.iter().filter(|row| !row.place.is_empty()) {
        let start = format!("| {} | {} | {} |", row.place, row.implementation, row.limits);
        let _ = match &row.figures {
            Ok(figures) => {
                writeln!(text, "{start} {} |", cells(family, figures, broken(family, row).is_some()))
            }
            Err(reason) => writeln!(text, "{start} **{}** | | | | |", reason.replace('|', "/")),
        };
    }
}

fn cells(family: &Family, figures: &Figures, breaks: bool) -> String {
    let Figures { registers, spills, fills, occupancy, subgroup, instructions, workgroup_memory } = figures;
    let spilled = match fills {
        Some(fills) => format!("{} / {fills}", number(*spills)),
        None => number(*spills),
    };
    let over = family.most_registers.is_some_and(|most| registers.is_some_and(|count| count > most));
    let spills_too = spills.unwrap_or(0.0) + fills.unwrap_or(0.0) > 0.0;
    let bold = |wanted: bool, cell: String| if wanted && breaks { format!("**{cell}**") } else { cell };
    let width = match family.vendor {
        Vendor::Amd => number(*occupancy),
        Vendor::Intel => subgroup.to_string(),
    };
    [
        bold(over, number(*registers)),
        bold(spills_too, spilled),
        width,
        number(*instructions),
        number(*workgroup_memory),
    ]
    .join(" | ")
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}
