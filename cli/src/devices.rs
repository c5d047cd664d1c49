//! `incept devices`

use clap::Args;
use incept::cpu::Cpu;
use incept::gpu::{AdapterSummary, adapter_advice, list_adapters};

use super::options::BackendArg;
use super::report::{Reporter, bytes, note};
use super::{Outcome, Result};

/// List the available devices: the adapters of graphics APIs with their limits and features, and
/// the CPU.
///
/// The exit code is 1 if `--backend` is given and has no adapter.
#[derive(Args, Debug)]
pub(crate) struct Devices {
    #[command(flatten)]
    backend: BackendArg,
}

impl Devices {
    pub(crate) fn run(&self, reporter: &Reporter) -> Result {
        let adapters = pollster::block_on(list_adapters(self.backend.apis()));
        for a in &adapters {
            let class = format!("{:?}", a.class).to_lowercase();
            reporter.line(&format!("{}: {}", a.index, a.name))?;
            reporter.line(&format!("   {class}, {}, {}", a.backend, a.driver))?;
            reporter.line(&format!(
                "   max binding {}, max buffer {}, workgroups up to {} threads with {} KiB, {} storage buffers",
                bytes(a.max_binding_bytes),
                bytes(a.max_buffer_bytes),
                a.max_invocations,
                a.workgroup_memory_bytes / 1024,
                a.storage_buffers
            ))?;
            let has = |yes| if yes { "yes" } else { "no" };
            let matrices = a.matrices.map_or_else(|| "no".to_string(), |size| format!("{size}x{size}"));
            reporter.line(&format!(
                "   f16 {}, timestamps {}, subgroups {}, cooperative matrices {matrices}",
                has(a.f16),
                has(a.timestamps),
                has(a.subgroups)
            ))?;
        }
        if adapters.is_empty() {
            note(&format!("no adapter found: {}", adapter_advice(self.backend.apis())));
        }
        let cpu = Cpu::new(None)?;
        let summary = cpu.summary();
        reporter.line(&format!("cpu: {}", summary.name))?;
        reporter.line(&format!("   {}, needs no driver", summary.driver))?;
        let listed: Vec<&AdapterSummary> = adapters.iter().chain([summary]).collect();
        reporter.event(&listed)?;
        if adapters.is_empty() && self.backend.apis().is_some() {
            return Ok(Outcome::Failed);
        }
        Ok(Outcome::Done)
    }
}
