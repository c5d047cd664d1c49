//! What the device at hand can do at most: its roofline, measured in a moment.

use web_time::Instant;

use super::{Checks, Clock, Gpu};
use crate::error::Result;
use crate::kernel::{AdapterClass, Kernel, Operands, Profile, Slot, Step};

/// Probes work on scratch memory alone.
const NOTHING: Operands<'_> = Operands { layer: "probe", inputs: &[], outputs: &[] };

const SOURCE: &str = include_str!("../../shaders/probe.wgsl");

/// Seconds that one measurement should take: long against a launch, short for a person.
const LONG_ENOUGH: f64 = 0.02;

/// Measurements of each kind, of which the best counts.
const REPEATS: usize = 5;

/// Multiply-adds of a chain in one round of `multiply_add`.
const STEPS: u32 = 16;

/// The peaks of a device.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Roofline {
    /// Floating-point operations a second in f32, two for a multiply-add.
    pub flops: f64,
    /// Bytes a second that a copy through storage loads and stores.
    pub bandwidth: f64,
    /// Seconds that the shortest dispatch takes.
    pub latency: f64,
    /// The clock that measured.
    pub clock: Clock,
}

impl Roofline {
    /// What bounds a dispatch of so many operations and bytes that took so many seconds.
    pub fn bound(&self, flops: f64, bytes: f64, seconds: f64) -> Bound {
        // Little work is not held up by the arithmetic or the memory that it needs.
        if seconds < 3.0 * self.latency {
            Bound::Latency
        } else if flops / self.flops > bytes / self.bandwidth {
            Bound::Compute
        } else {
            Bound::Bandwidth
        }
    }
}

/// What keeps a dispatch from being faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// The rate of multiply-adds.
    Compute,
    /// The rate of storage.
    Bandwidth,
    /// The time that any dispatch takes.
    Latency,
}

/// The sizes of the probe on a device of one class.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// Independent sums: enough to hide the latency of an addition, few enough for the registers.
    chains: u32,
    /// Workgroups of the multiply-adds.
    groups: usize,
    /// Bytes of each of the two buffers of the copy: larger than caches.
    bytes: u64,
}

/// Invocations of a workgroup of both kernels.
const WORKGROUP: u32 = 128;

/// Vectors that an invocation of the copy moves.
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
            AdapterClass::Software => Self { chains: 2, groups: 256, bytes: bytes(64 << 20) },
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

/// A copy of so many bytes.
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
    /// Measures the peaks of the device: a second on a GPU, some on a CPU.
    ///
    /// # Errors
    /// What the device reports.
    pub async fn roofline(&self) -> Result<Roofline> {
        let sizes = Sizes::of(self.profile());
        let mut clock = self.clock();
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let from = self.buffer("probe", sizes.bytes, usage).await?;
        let to = self.buffer("probe", sizes.bytes, usage).await?;
        let copy = transfer(sizes.bytes);
        let (begin, seen) = (Instant::now(), self.best(&copy, [&from, &to], clock).await?);
        // Some drivers offer timestamps and leave them zero, or in other units than they say.
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
            // A clock too coarse to see it says zero.
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
        // The probe's own kernels on buffers of the sizes that they are made for.
        let pipeline = self.pipeline_with(kernel, Checks::None).await?;
        let uniform = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let step = self.buffer("step", Step::BYTES, uniform).await?;
        let bindings = buffers.map(|buffer| wgpu::BufferBinding { buffer, offset: 0, size: None });
        let group = self.bind(kernel, &pipeline, &bindings, &step);
        let [x, y, z] = kernel.groups;
        // The first run also loads code and touches memory for the first time.
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
    fn the_nearest_roof_bounds() {
        let roofline = Roofline { flops: 1e12, bandwidth: 1e11, latency: 1e-6, clock: Clock::Host };
        assert_eq!(roofline.bound(1e9, 1e6, 2e-3), Bound::Compute);
        assert_eq!(roofline.bound(1e9, 1e9, 2e-2), Bound::Bandwidth);
        assert_eq!(roofline.bound(1e9, 1e9, 2e-6), Bound::Latency);
    }
}
