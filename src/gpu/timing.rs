//! How long dispatches take: by the device's own clock where it has one, by the host's around submitting and waiting otherwise.

use web_time::{Duration, Instant};

use super::Gpu;
use crate::error::Result;

/// Times dispatches on one device.
#[derive(Debug)]
pub(crate) struct Timer {
    queries: Option<wgpu::QuerySet>,
    /// Where the two timestamps arrive; reading it is also how the end is waited for.
    ticks: wgpu::Buffer,
}

impl Timer {
    /// A timer, with timestamps if the device has them.
    pub(crate) async fn new(gpu: &Gpu) -> Result<Self> {
        let queries = gpu.device().features().contains(wgpu::Features::TIMESTAMP_QUERY).then(|| {
            gpu.device().create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timing"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            })
        });
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        Ok(Self { queries, ticks: gpu.buffer("timing", 16, usage).await? })
    }

    /// The time that the dispatches of one pass take. By the host's clock that includes submitting it, so a pass should be long.
    pub(crate) async fn time(
        &self,
        gpu: &Gpu,
        encode: impl FnOnce(&mut wgpu::ComputePass<'_>),
    ) -> Result<Duration> {
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let timestamp_writes = self.queries.as_ref().map(|query_set| wgpu::ComputePassTimestampWrites {
            query_set,
            beginning_of_pass_write_index: Some(0),
            end_of_pass_write_index: Some(1),
        });
        encode(
            &mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes }),
        );
        if let Some(queries) = &self.queries {
            encoder.resolve_query_set(queries, 0..2, &self.ticks, 0);
        }
        let commands = encoder.finish();
        let start = Instant::now();
        gpu.queue().submit([commands]);
        let bytes = gpu.download(&self.ticks, 0, 16).await?;
        let waited = start.elapsed();
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
        let passed = ticks.get(1).zip(ticks.first()).and_then(|(end, begin)| end.checked_sub(*begin));
        let nanoseconds = passed.unwrap_or(0) as f64 * f64::from(gpu.queue().get_timestamp_period());
        let measured = Duration::from_secs_f64(nanoseconds * 1e-9);
        // Some drivers offer timestamps and leave them zero, or in other units than they say.
        Ok(if measured.is_zero() || measured > waited { waited } else { measured })
    }
}
