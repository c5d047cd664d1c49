//! Compute pipelines, compiled once and cached by source text.

#[cfg(not(target_arch = "wasm32"))]
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::Gpu;
use crate::error::{Error, Result};
use crate::kernel::{
    GROUPED_ENTRY, Implementation, Kernel, Operand, Problem, Profile, geometry_bytes, grid, grouped_text,
    pipeline_text, table, workgroups,
};

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

/// How a pipeline gets the geometry of its kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Geometry {
    /// It is compiled in, or there is none.
    Compiled,
    /// From a uniform.
    Uniform,
    /// From a table of problems.
    Table,
}

/// What a pipeline is compiled from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form<'a> {
    pub kernel: &'a Kernel,
    pub checks: Checks,
    /// For a group of kernels, which bindings share an array; `None` for a kernel by itself.
    pub arrays: Option<&'a [usize]>,
}

/// Bindings of which none shares an array with another.
const APART: [usize; 32] = {
    let mut all = [0; 32];
    let mut i = 0;
    while i < all.len() {
        all[i] = i;
        i += 1;
    }
    all
};

impl<'a> Form<'a> {
    /// The form of a kernel by itself. One that could be in a group is compiled as in a group, so
    /// that what is measured is what runs.
    pub(crate) fn alone(kernel: &'a Kernel, checks: Checks, profile: &Profile) -> Self {
        let grouped = profile.grouped && kernel.groupable && checks == Checks::None;
        let arrays = APART.get(..kernel.bindings.len()).filter(|_| grouped);
        Self { kernel, checks, arrays }
    }
}

/// A compiled kernel.
#[derive(Debug)]
pub struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
    pub(crate) geometry: Geometry,
    /// Which bindings are arrays of their own.
    own: Vec<bool>,
}

impl Pipeline {
    /// The grid of a dispatch of one kernel.
    pub(crate) fn grid(&self, kernel: &Kernel) -> [u32; 3] {
        if self.geometry == Geometry::Table { grid(workgroups(kernel)) } else { kernel.groups }
    }

    /// The content of the uniform for one kernel whose tensors are at the start of its bindings.
    pub(crate) fn values(&self, kernel: &Kernel) -> Vec<u8> {
        match self.geometry {
            Geometry::Table => table(&[Problem { kernel, bases: vec![0; kernel.bindings.len()] }]),
            Geometry::Uniform => geometry_bytes(kernel),
            Geometry::Compiled => Vec::new(),
        }
    }
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
        self.pipeline_in(Form::alone(kernel, checks, self.profile())).await
    }

    /// The pipeline of a kernel in this form.
    pub(crate) async fn pipeline_in(&self, form: Form<'_>) -> Result<Arc<Pipeline>> {
        self.pipeline_of(form, self.text(form)?).await
    }

    fn text(&self, form: Form<'_>) -> Result<String> {
        match form.arrays {
            Some(arrays) => grouped_text(form.kernel, arrays),
            None => pipeline_text(form.kernel, self.profile().bake),
        }
    }

    /// Compiles the kernels that are not cached, on all cores: drivers of hardware GPUs take about
    /// 0.1 s for each.
    ///
    /// # Errors
    /// As [`Gpu::pipeline`], for one of them.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn compile_together<'a>(&self, forms: impl Iterator<Item = Form<'a>>) -> Result<()> {
        use rayon::iter::{IntoParallelIterator, ParallelIterator};
        let distinct = forms.map(|form| Ok(((self.text(form)?, form.kernel.entry, form.checks), form)));
        let distinct = distinct.collect::<Result<BTreeMap<_, _>>>()?;
        // Compilation does not wait for the device, and error scopes are per thread.
        distinct
            .into_par_iter()
            .try_for_each(|((text, ..), form)| pollster::block_on(self.pipeline_of(form, text)).map(drop))
    }

    async fn pipeline_of(&self, form: Form<'_>, text: String) -> Result<Arc<Pipeline>> {
        let Form { kernel, checks, .. } = form;
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
        let pipeline = Arc::new(self.compile(form, &key.0));
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

    fn compile(&self, form: Form<'_>, text: &str) -> Pipeline {
        let Form { kernel, checks, arrays } = form;
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
        let geometry = match arrays {
            Some(_) => Geometry::Table,
            None if self.profile().bake || kernel.geometry.is_empty() => Geometry::Compiled,
            None => Geometry::Uniform,
        };
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
        let own: Vec<bool> =
            (0..count).map(|i| arrays.is_none_or(|arrays| arrays.get(i) == Some(&i))).collect();
        let mut entries: Vec<_> = (0..count).filter(|i| own[*i]).map(|i| entry(i, storage)).collect();
        if geometry != Geometry::Compiled {
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
            entry_point: Some(if arrays.is_some() { GROUPED_ENTRY } else { kernel.entry }),
            compilation_options: wgpu::PipelineCompilationOptions {
                // The crate's own kernels write all workgroup memory before they read it.
                zero_initialize_workgroup_memory: checks == Checks::All,
                ..Default::default()
            },
            cache: None,
        });
        Pipeline { pipeline, layout, geometry, own }
    }

    /// Creates the bind group of a dispatch: one (buffer, offset, bytes) per binding, the uniform
    /// with these `values` of the geometry, and the step uniform.
    pub(crate) fn bind(
        &self,
        label: &str,
        pipeline: &Pipeline,
        bindings: &[wgpu::BufferBinding<'_>],
        values: &[u8],
        step: &wgpu::Buffer,
    ) -> wgpu::BindGroup {
        let geometry = (pipeline.geometry != Geometry::Compiled).then(|| {
            let buffer = self.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: values.len() as u64,
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            self.queue().write_buffer(&buffer, 0, values);
            buffer
        });
        let entry = |binding: usize, resource| wgpu::BindGroupEntry {
            binding: u32::try_from(binding).unwrap_or(u32::MAX),
            resource,
        };
        let mut entries: Vec<_> = bindings
            .iter()
            .enumerate()
            .filter(|(i, _)| pipeline.own.get(*i) == Some(&true))
            .map(|(i, b)| entry(i, wgpu::BindingResource::Buffer(b.clone())))
            .collect();
        if let Some(buffer) = &geometry {
            entries.push(entry(bindings.len(), buffer.as_entire_binding()));
        }
        entries.push(entry(bindings.len() + 1, step.as_entire_binding()));
        self.shared.counts.bind_groups.fetch_add(1, Ordering::Relaxed);
        self.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(label),
            layout: &pipeline.layout,
            entries: &entries,
        })
    }
}
