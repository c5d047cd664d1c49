//! Kernels by families of GPUs: each family is compiled for in a process of its own, because
//! drivers read the family from the environment.

use std::collections::VecDeque;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::driver::{Compiled, Driver};
use crate::families::{FAMILIES, Family, Lab};

/// A driver that compiled for a family.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Device {
    /// The device's name.
    pub name: String,
    /// The driver's name and version.
    pub driver: String,
}

/// A kernel as compiled for a family.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Layer and direction; empty for a pipeline of a plan.
    pub place: String,
    /// The limits with which it is the default: WebGPU's, the device's, or both.
    pub limits: String,
    /// Its implementation.
    pub implementation: String,
    /// Its entry point, with the layer.
    pub kernel: String,
    /// What the driver reports, or why it failed.
    pub figures: Result<Figures, String>,
}

/// What a driver reports, in terms that all drivers share; absent where it does not.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Vector registers of an invocation.
    pub registers: Option<f64>,
    /// Spilled registers (AMD: also scalar ones), or instructions that spill (Intel).
    pub spills: Option<f64>,
    /// Instructions that load spilled values.
    pub fills: Option<f64>,
    /// Subgroups that are resident on a SIMD unit.
    pub occupancy: Option<f64>,
    /// Invocations of a subgroup.
    pub subgroup: u32,
    /// Instructions.
    pub instructions: Option<f64>,
    /// Bytes of workgroup memory.
    pub workgroup_memory: Option<f64>,
}

impl Figures {
    /// The statistics that every driver has in some form.
    pub fn of(compiled: &Compiled) -> Self {
        let one = |name: &str| compiled.statistics.iter().find(|s| s.name == name).map(|s| s.value);
        let scalar = one("Spilled SGPRs").unwrap_or(0.0);
        Self {
            registers: one("VGPRs").or_else(|| one("Max live registers")),
            spills: one("Spilled VGPRs").map(|vector| vector + scalar).or_else(|| one("Spill Count")),
            fills: one("Fill Count"),
            occupancy: one("Subgroups per SIMD"),
            subgroup: compiled.subgroup,
            instructions: one("Instructions").or_else(|| one("Instruction Count")),
            workgroup_memory: one("LDS size").or_else(|| one("Workgroup Memory Size")),
        }
    }
}

impl Device {
    /// The device of a driver.
    pub fn of(driver: &Driver) -> Self {
        Self { name: driver.name().into(), driver: driver.version().into() }
    }
}

/// The result for a family.
pub struct Column {
    /// The family.
    pub family: &'static Family,
    /// The device and its rows, or why it is not available.
    pub result: Result<(Device, Vec<Row>), String>,
}

/// Runs this program with `arguments` and the name of each family, some at a time; families that
/// `only` does not name are left out.
pub fn columns(lab: &Lab, only: &[String], arguments: &[String], jobs: usize) -> Vec<Column> {
    let wanted = FAMILIES.iter().filter(|f| only.is_empty() || only.iter().any(|name| name == f.name));
    let queue: Mutex<VecDeque<&Family>> = Mutex::new(wanted.collect());
    let done: Mutex<Vec<Column>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(family) = next else { break };
                    let start = std::time::Instant::now();
                    let result = column(lab, family, arguments).map_err(|e| e.to_string());
                    let kernels = result.as_ref().map_or(0, |(_, rows)| rows.len());
                    eprintln!("{}: {kernels} kernels in {:.0} s", family.name, start.elapsed().as_secs_f64());
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push(Column { family, result });
                }
            });
        }
    });
    let mut list = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    list.sort_by_key(|column| FAMILIES.iter().position(|f| f.name == column.family.name));
    list
}

/// Runs this program for one family and reads its lines.
fn column(lab: &Lab, family: &Family, arguments: &[String]) -> Result<(Device, Vec<Row>)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).arg(family.name);
    lab.configure(family, &mut command)?;
    let output = command.stderr(Stdio::piped()).output()?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = errors.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_string();
        return Err(format!("{last} ({})", output.status).into());
    }
    let text = String::from_utf8(output.stdout)?;
    let mut lines = text.lines();
    let device = serde_json::from_str(lines.next().unwrap_or_default())?;
    let rows = lines.map(serde_json::from_str).collect::<Result<Vec<Row>, _>>()?;
    Ok((device, rows))
}

/// What a kernel breaks on a family: no driver may refuse or spill it, and on GCN it has at most
/// 128 vector registers.
pub fn broken(family: &Family, row: &Row) -> Option<String> {
    let figures = match &row.figures {
        Ok(figures) => figures,
        Err(reason) => return Some(format!("refused: {reason}")),
    };
    let Some(spills) = figures.spills else { return Some("the driver does not report spills".into()) };
    if spills > 0.0 || figures.fills.unwrap_or(0.0) > 0.0 {
        let fills = figures.fills.map_or(String::new(), |fills| format!(", {fills} fills"));
        return Some(format!("{spills} spills{fills}"));
    }
    let registers = figures.registers.unwrap_or(0.0);
    let most = family.most_registers.filter(|most| registers > *most)?;
    Some(format!("{registers} registers, more than {most}"))
}

/// The broken rules of all columns, as lines.
pub fn broken_rules(columns: &[Column]) -> Vec<String> {
    let mut lines = Vec::new();
    for Column { family, result } in columns {
        let Ok((_, rows)) = result else { continue };
        for (row, reason) in rows.iter().filter_map(|row| Some((row, broken(family, row)?))) {
            let place = if row.place.is_empty() { &row.kernel } else { &row.place };
            lines.push(format!("{}: {place} {}: {reason}", family.name, row.implementation));
        }
    }
    lines
}

/// What was not available: families and parts of the setup, with the reasons.
pub fn unavailable(lab: &Lab, columns: &[Column]) -> Vec<String> {
    let families = columns.iter().filter_map(|column| {
        let reason = column.result.as_ref().err()?;
        Some(format!("{} ({}): {reason}", column.family.name, column.family.products))
    });
    families.chain(lab.parts().1).collect()
}

/// The result of a check: the broken rules are an error, and so is a driver that compiled nothing.
pub fn checked(columns: &[Column], broken: &[String]) -> Result<()> {
    if columns.iter().all(|column| column.result.as_ref().map_or(0, |(_, rows)| rows.len()) == 0) {
        return Err("no driver compiled anything: run setup".into());
    }
    if broken.is_empty() {
        return Ok(());
    }
    Err(format!("{} kernels break a rule", broken.len()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(figures: Result<Figures, String>) -> Row {
        let text = String::new;
        Row { place: text(), limits: text(), implementation: text(), kernel: text(), figures }
    }

    #[test]
    fn spills_registers_and_refusals_break_rules() {
        let of = |name: &str| FAMILIES.iter().find(|f| f.name == name).expect("a family");
        let figures = |registers, spills, fills| {
            Ok(Figures { registers: Some(registers), spills: Some(spills), fills, ..Figures::default() })
        };
        let (vega, navi) = (of("vega10"), of("navi21"));
        assert_eq!(broken(vega, &row(figures(128.0, 0.0, None))), None);
        assert!(broken(vega, &row(figures(129.0, 0.0, None))).is_some());
        assert_eq!(broken(navi, &row(figures(129.0, 0.0, None))), None);
        assert!(broken(navi, &row(figures(64.0, 1.0, None))).is_some());
        assert!(broken(of("skl"), &row(figures(64.0, 0.0, Some(2.0)))).is_some());
        assert!(broken(navi, &row(Err("refused".into()))).is_some());
        // A driver that reports nothing proves nothing.
        assert!(broken(navi, &row(Ok(Figures::default()))).is_some());
    }
}
