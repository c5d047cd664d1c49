//! `incept devices`

use clap::Args;
use incept::gpu::{adapter_advice, list_adapters};

use super::options::BackendArg;
use super::report::{Reporter, bytes, note};
use super::{Outcome, Result};

/// List the available adapters with their limits and features.
///
/// The exit code is 1 if there are none.
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
        reporter.event(&adapters)?;
        if adapters.is_empty() {
            note(&format!("no adapter found: {}", adapter_advice(self.backend.apis())));
            return Ok(Outcome::Failed);
        }
        Ok(Outcome::Done)
    }
}
