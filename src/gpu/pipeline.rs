//! Compute pipelines, compiled once and cached by source text.

#[cfg(not(target_arch = "wasm32"))]
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::Gpu;
use crate::error::{Error, Result};
use crate::kernel::{Implementation, Kernel, Operand, Profile, pipeline_text};

/// Runtime checks of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Checks {
    /// Array bounds and endless loops.
    All,
    /// No checks.
    None,
}

impl Checks {
    /// The checks that an implementation needs on these operands.
    pub(crate) fn of(
        implementation: &Implementation,
        inputs: &[Operand],
        outputs: &[Operand],
        profile: &Profile,
    ) -> Self {
        if implementation.is_proven(inputs, outputs, profile) { Self::None } else { Self::All }
    }
}

/// A compiled kernel.
#[derive(Debug)]
pub struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
    /// Whether the geometry is passed in a uniform.
    pub(crate) has_geometry: bool,
}

impl Gpu {
    /// The pipeline of a kernel with bounds checks, from the cache or compiled.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the kernel's label and the compiler's message, or the exceeded device
    /// limit.
    pub async fn pipeline(&self, kernel: &Kernel) -> Result<Arc<Pipeline>> {
        self.pipeline_with(kernel, Checks::All).await
    }

    /// As [`Gpu::pipeline`], with these checks. [`Checks::None`] is only for kernels of an
    /// implementation that [is proven](crate::kernel::Implementation::is_proven) for its operands.
    pub(crate) async fn pipeline_with(&self, kernel: &Kernel, checks: Checks) -> Result<Arc<Pipeline>> {
        self.pipeline_of(kernel, pipeline_text(kernel, self.profile().bake)?, checks).await
    }

    /// Compiles the kernels that are not cached, on all cores: drivers of hardware GPUs take about
    /// 0.1 s for each.
    ///
    /// # Errors
    /// As [`Gpu::pipeline`], for one of them.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn compile_together<'a>(
        &self,
        kernels: impl Iterator<Item = (&'a Kernel, Checks)>,
    ) -> Result<()> {
        use rayon::iter::{IntoParallelIterator, ParallelIterator};
        let bake = self.profile().bake;
        let distinct = kernels.map(|(k, checks)| Ok(((pipeline_text(k, bake)?, k.entry, checks), k)));
        let distinct = distinct.collect::<Result<BTreeMap<_, _>>>()?;
        // Compilation does not wait for the device, and error scopes are per thread.
        distinct.into_par_iter().try_for_each(|((text, _, checks), kernel)| {
            pollster::block_on(self.pipeline_of(kernel, text, checks)).map(drop)
        })
    }

    async fn pipeline_of(&self, kernel: &Kernel, text: String, checks: Checks) -> Result<Arc<Pipeline>> {
        let bake = self.profile().bake;
        let key = (text, kernel.entry, checks);
        let known = self.shared.pipelines.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(pipeline) = known {
            return Ok(pipeline);
        }
        let refused = |reason| Error::Kernel { kernel: kernel.label.clone(), reason, source: None };
        let most = self.device().limits().max_storage_buffers_per_shader_stage;
        if let Some(fault) = kernel.fault(most, bake) {
            return Err(refused(fault));
        }
        if kernel.cooperative && checks == Checks::All {
            return Err(refused(
                "cooperative matrices have no runtime checks: they are only for proven implementations"
                    .into(),
            ));
        }
        let internal = self.device().push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device().push_error_scope(wgpu::ErrorFilter::Validation);
        let pipeline = Arc::new(self.compile(kernel, &key.0, bake, checks));
        // Scopes belong to this thread, and after an `await` the task may be on another.
        let (validation, internal) = (validation.pop(), internal.pop());
        let errors = [validation.await, internal.await];
        if let Some(error) = errors.into_iter().flatten().next() {
            return Err(Error::refused(&kernel.label, error));
        }
        let mut pipelines = self.shared.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        pipelines.insert(key, Arc::clone(&pipeline));
        Ok(pipeline)
    }

    fn compile(&self, kernel: &Kernel, text: &str, bake: bool, checks: Checks) -> Pipeline {
        let label = Some(kernel.label.as_str());
        let descriptor =
            wgpu::ShaderModuleDescriptor { label, source: wgpu::ShaderSource::Wgsl(text.into()) };
        let module = match checks {
            Checks::All => self.device().create_shader_module(descriptor),
            // SAFETY: without runtime checks, an index out of bounds or an endless loop would be
            // undefined behavior. Only kernels of proven implementations get here: the crate's own,
            // whose sizes come from the shapes that the buffers were allocated for and which are
            // tested against the CPU reference with guard regions around every tensor, and external
            // ones declared proven by an `unsafe` call.
            #[allow(
                unsafe_code,
                reason = "bounds branches in inner loops cost a large part of a kernel's speed"
            )]
            Checks::None => unsafe {
                self.device().create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
            },
        };
        let has_geometry = !bake && !kernel.geometry.is_empty();
        let storage = wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only: false },
            has_dynamic_offset: false,
            min_binding_size: None,
        };
        let uniform = wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Uniform,
            has_dynamic_offset: false,
            min_binding_size: None,
        };
        let entry = |binding: usize, ty| wgpu::BindGroupLayoutEntry {
            binding: u32::try_from(binding).unwrap_or(u32::MAX),
            visibility: wgpu::ShaderStages::COMPUTE,
            ty,
            count: None,
        };
        let count = kernel.bindings.len();
        let mut entries: Vec<_> = (0..count).map(|i| entry(i, storage)).collect();
        if has_geometry {
            entries.push(entry(count, uniform));
        }
        entries.push(entry(count + 1, uniform));
        let layout = self
            .device()
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
        let pipeline_layout = self.device().create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = self.device().create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(kernel.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                // The crate's own kernels write all workgroup memory before they read it.
                zero_initialize_workgroup_memory: checks == Checks::All,
                ..Default::default()
            },
            cache: None,
        });
        Pipeline { pipeline, layout, has_geometry }
    }

    /// Creates the bind group of a kernel: one (buffer, offset, bytes) per binding, and the step
    /// uniform.
    pub(crate) fn bind(
        &self,
        kernel: &Kernel,
        pipeline: &Pipeline,
        bindings: &[wgpu::BufferBinding<'_>],
        step: &wgpu::Buffer,
    ) -> wgpu::BindGroup {
        let geometry = pipeline.has_geometry.then(|| {
            let bytes = crate::kernel::geometry_bytes(kernel);
            let buffer = self.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some(&kernel.label),
                size: bytes.len() as u64,
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            self.queue().write_buffer(&buffer, 0, &bytes);
            buffer
        });
        let entry = |binding: usize, resource| wgpu::BindGroupEntry {
            binding: u32::try_from(binding).unwrap_or(u32::MAX),
            resource,
        };
        let mut entries: Vec<_> = bindings
            .iter()
            .enumerate()
            .map(|(i, b)| entry(i, wgpu::BindingResource::Buffer(b.clone())))
            .collect();
        if let Some(buffer) = &geometry {
            entries.push(entry(bindings.len(), buffer.as_entire_binding()));
        }
        entries.push(entry(bindings.len() + 1, step.as_entire_binding()));
        self.shared.counts.bind_groups.fetch_add(1, Ordering::Relaxed);
        self.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&kernel.label),
            layout: &pipeline.layout,
            entries: &entries,
        })
    }
}
