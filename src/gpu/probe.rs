//! Measures the roofline of a device.

use web_time::Instant;

use super::{Checks, Clock, Gpu};
use crate::error::Result;
use crate::kernel::{AdapterClass, Kernel, Operands, Profile, Slot, Step};

/// Probes use only scratch memory.
const NOTHING: Operands<'_> = Operands { layer: "probe", inputs: &[], outputs: &[] };

const SOURCE: &str = include_str!("../../shaders/probe.wgsl");

/// Target duration of a measurement in seconds, long compared with a launch.
const LONG_ENOUGH: f64 = 0.02;

/// Measurements of each kind; the best is used.
const REPEATS: usize = 5;

/// Multiply-adds per chain and round of `multiply_add`.
const STEPS: u32 = 16;

/// The peaks of a device.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Roofline {
    /// f32 FLOP per second; a multiply-add is two.
    pub flops: f64,
    /// Bytes per second loaded and stored by a copy in storage.
    pub bandwidth: f64,
    /// Seconds of the shortest dispatch.
    pub latency: f64,
    /// The clock used.
    pub clock: Clock,
}

impl Roofline {
    /// The bound of a dispatch with these FLOP, bytes and seconds.
    pub fn bound(&self, flops: f64, bytes: f64, seconds: f64) -> Bound {
        // Small dispatches are bound by latency, not by arithmetic or memory.
        if seconds < 3.0 * self.latency {
            Bound::Latency
        } else if flops / self.flops > bytes / self.bandwidth {
            Bound::Compute
        } else {
            Bound::Bandwidth
        }
    }
}

/// The limiting factor of a dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Arithmetic throughput.
    Compute,
    /// Memory bandwidth.
    Bandwidth,
    /// Launch latency.
    Latency,
}

/// Sizes of the probe for a device class.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// Independent accumulators: enough to hide arithmetic latency, few enough for registers.
    chains: u32,
    /// Workgroups of the multiply-adds.
    groups: usize,
    /// Bytes of each of the two copy buffers, larger than caches.
    bytes: u64,
}

/// Workgroup size of both kernels.
const WORKGROUP: u32 = 128;

/// Vectors copied per invocation.
const EACH: u32 = 4;

impl Sizes {
    fn of(profile: &Profile) -> Self {
        let bytes = |most: u64| {
            let unit = u64::from(16 * WORKGROUP * EACH);
            most.min(profile.binding).min(profile.buffer) / unit * unit
        };
        match profile.class {
            AdapterClass::Discrete => Self { chains: 4, groups: 8192, bytes: bytes(256 << 20) },
            AdapterClass::Integrated => Self { chains: 4, groups: 1024, bytes: bytes(128 << 20) },
            AdapterClass::Software | AdapterClass::Cpu => {
                Self { chains: 2, groups: 256, bytes: bytes(64 << 20) }
            }
        }
    }

    fn multiply_add(self) -> Kernel {
        Kernel::new(&NOTHING, SOURCE, "multiply_add")
            .constant("CHAINS", self.chains)
            .constant("STEPS", STEPS)
            .bind("values", Slot::Scratch(0))
            .bind_as("rounds", Slot::Scratch(1), "u32")
            .workgroup(WORKGROUP, 1, 1)
            .linear_groups(self.groups)
    }
}

/// The kernel that copies `bytes`.
fn transfer(bytes: u64) -> Kernel {
    let count = usize::try_from(bytes / 16).unwrap_or(usize::MAX);
    Kernel::new(&NOTHING, SOURCE, "transfer")
        .constant("EACH", EACH)
        .geometry("count", count)
        .bind_as("source", Slot::Scratch(0), "vec4<f32>")
        .bind_as("target_", Slot::Scratch(1), "vec4<f32>")
        .workgroup(WORKGROUP, 1, 1)
        .linear_groups(count.div_ceil((WORKGROUP * EACH) as usize))
}

/// The kernels of the probe on a device with this profile.
pub fn probe_kernels(profile: &Profile) -> Vec<Kernel> {
    let sizes = Sizes::of(profile);
    vec![sizes.multiply_add(), transfer(sizes.bytes)]
}

impl Gpu {
    /// Measures the peaks of the device; takes about a second on a GPU, a few on a CPU.
    ///
    /// # Errors
    /// Errors of the device.
    pub async fn roofline(&self) -> Result<Roofline> {
        let sizes = Sizes::of(self.profile());
        let mut clock = self.clock();
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let from = self.buffer("probe", sizes.bytes, usage).await?;
        let to = self.buffer("probe", sizes.bytes, usage).await?;
        let copy = transfer(sizes.bytes);
        let (begin, seen) = (Instant::now(), self.best(&copy, [&from, &to], clock).await?);
        // Some drivers support timestamps but leave them zero or use other units than reported.
        if seen <= 0.0 || seen > begin.elapsed().as_secs_f64() {
            clock = Clock::Host;
        }
        let shortest = self.best(&transfer(u64::from(16 * WORKGROUP * EACH)), [&from, &to], clock).await?;
        let copied = self.best(&copy, [&from, &to], clock).await?;

        let kernel = sizes.multiply_add();
        let mut rounds = 1_u32;
        loop {
            self.queue().write_buffer(&to, 0, &rounds.to_le_bytes());
            let begin = Instant::now();
            let seconds = self.best(&kernel, [&from, &to], clock).await?;
            // A coarse clock may measure zero.
            let factor = LONG_ENOUGH / seconds.max(1e-7);
            let long = begin.elapsed().as_secs_f64() > 20.0 * LONG_ENOUGH * REPEATS as f64;
            if factor < 2.0 || long || rounds > 1 << 20 {
                let chains = f64::from(sizes.chains * STEPS) * f64::from(rounds);
                let invocations = kernel.groups.iter().product::<u32>() * WORKGROUP;
                return Ok(Roofline {
                    flops: 2.0 * 4.0 * chains * f64::from(invocations) / seconds.max(1e-9),
                    bandwidth: 2.0 * sizes.bytes as f64 / copied.max(1e-9),
                    latency: shortest,
                    clock,
                });
            }
            rounds = (f64::from(rounds) * factor.min(1000.0)).ceil() as u32;
        }
    }

    /// Seconds of the fastest of several runs of a kernel with two bindings.
    async fn best(&self, kernel: &Kernel, buffers: [&wgpu::Buffer; 2], clock: Clock) -> Result<f64> {
        // Unchecked: the probe's kernels are sized for these buffers.
        let pipeline = self.pipeline_with(kernel, Checks::None).await?;
        let uniform = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let step = self.buffer("step", Step::BYTES, uniform).await?;
        let bindings = buffers.map(|buffer| wgpu::BufferBinding { buffer, offset: 0, size: None });
        let values = pipeline.values(kernel);
        let group = self.bind(&kernel.label, &pipeline, &bindings, &values, &step);
        let [x, y, z] = pipeline.grid(kernel);
        // The first run includes loading code and touching memory for the first time.
        let times = self
            .time(clock, 1 + REPEATS, |_, pass| {
                pass.set_pipeline(&pipeline.pipeline);
                pass.set_bind_group(0, &group, &[]);
                pass.dispatch_workgroups(x, y, z);
            })
            .await?;
        self.check("the probe")?;
        Ok(times.iter().skip(1).map(|t| t.seconds).fold(f64::INFINITY, f64::min))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_is_the_nearest_roof() {
        let roofline = Roofline { flops: 1e12, bandwidth: 1e11, latency: 1e-6, clock: Clock::Host };
        assert_eq!(roofline.bound(1e9, 1e6, 2e-3), Bound::Compute);
        assert_eq!(roofline.bound(1e9, 1e9, 2e-2), Bound::Bandwidth);
        assert_eq!(roofline.bound(1e9, 1e9, 2e-6), Bound::Latency);
    }
}
