//! Timing of passes by device timestamps, or else by the host's clock.

use web_time::Instant;

use super::{Gpu, Signal};
use crate::error::Result;

/// Passes per query set: WebGPU allows 4,096 queries, two per pass.
const CHUNK: usize = 2048;

/// Empty passes timed to correct the host's clock by the shortest round trip.
const EMPTY_PASSES: usize = 5;

/// Clock used for timing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// Device timestamps around each pass.
    Device,
    /// Host clock from submission to completion of each pass, minus that of an empty pass.
    Host,
}

/// Timing of a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Interval {
    /// Seconds from the start of the first pass.
    pub start: f64,
    /// Duration in seconds.
    pub seconds: f64,
}

impl Gpu {
    /// The best available clock.
    pub fn clock(&self) -> Clock {
        if self.device().features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            Clock::Device
        } else {
            Clock::Host
        }
    }

    /// Runs `count` passes in sequence, encoded by `fill`, and returns the timing of each.
    ///
    /// # Errors
    /// Errors of the device.
    pub(crate) async fn time(
        &self,
        clock: Clock,
        count: usize,
        mut fill: impl FnMut(usize, &mut wgpu::ComputePass<'_>),
    ) -> Result<Vec<Interval>> {
        match clock {
            Clock::Device => {
                let mut ticks = Vec::with_capacity(2 * count);
                for first in (0..count).step_by(CHUNK) {
                    let passes = first..count.min(first + CHUNK);
                    ticks.extend(self.time_by_queries(passes, &mut fill).await?);
                }
                let period = f64::from(self.queue().get_timestamp_period()) * 1e-9;
                let origin = ticks.first().copied().unwrap_or(0);
                // Driver timestamps may go backwards; such a pass is counted as zero.
                let since = |from: u64, to: u64| to.saturating_sub(from) as f64 * period;
                let interval = |pair: &[u64]| Interval {
                    start: since(origin, pair[0]),
                    seconds: since(pair[0], pair[1]),
                };
                Ok(ticks.chunks_exact(2).map(interval).collect())
            }
            Clock::Host => {
                let mut round_trip = f64::INFINITY;
                for _ in 0..EMPTY_PASSES {
                    round_trip = round_trip.min(self.time_by_waiting(|_| ()).await?);
                }
                let begin = Instant::now();
                let mut intervals = Vec::with_capacity(count);
                for pass in 0..count {
                    let start = begin.elapsed().as_secs_f64();
                    let seconds = self.time_by_waiting(|p| fill(pass, p)).await?;
                    intervals.push(Interval { start, seconds: (seconds - round_trip).max(0.0) });
                }
                Ok(intervals)
            }
        }
    }

    /// Timestamps at the start and end of each pass.
    async fn time_by_queries(
        &self,
        passes: std::ops::Range<usize>,
        fill: &mut impl FnMut(usize, &mut wgpu::ComputePass<'_>),
    ) -> Result<Vec<u64>> {
        let queries = u32::try_from(2 * passes.len()).unwrap_or(u32::MAX);
        let query_set = self.device().create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("times"),
            ty: wgpu::QueryType::Timestamp,
            count: queries,
        });
        let bytes = 8 * u64::from(queries);
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = self.buffer("times", bytes, usage).await?;
        let mut encoder = self.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (query, pass) in (0..).step_by(2).zip(passes) {
            let timestamp_writes = Some(wgpu::ComputePassTimestampWrites {
                query_set: &query_set,
                beginning_of_pass_write_index: Some(query),
                end_of_pass_write_index: Some(query + 1),
            });
            let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
            fill(pass, &mut encoder.begin_compute_pass(&descriptor));
        }
        encoder.resolve_query_set(&query_set, 0..queries, &resolved, 0);
        self.submit(encoder);
        Ok(bytemuck::pod_collect_to_vec(&self.download(&resolved, 0, bytes).await?))
    }

    /// Seconds from the submission of a pass until its completion is known on the host.
    async fn time_by_waiting(&self, fill: impl FnOnce(&mut wgpu::ComputePass<'_>)) -> Result<f64> {
        let mut encoder = self.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        fill(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
        self.finished().await?;
        let begin = Instant::now();
        self.submit(encoder);
        self.finished().await?;
        Ok(begin.elapsed().as_secs_f64())
    }

    /// Waits until all submitted work is done.
    pub(crate) async fn finished(&self) -> Result<()> {
        let done = Signal::default();
        let sender = done.clone();
        self.queue().on_submitted_work_done(move || sender.send(Ok(())));
        self.arrival(&done, None).await.map_err(|reason| self.driver("waiting for the device", reason))?;
        self.check("a run")
    }
}
