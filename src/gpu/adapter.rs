//! Selecting an adapter and opening a device with its limits and features.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(not(target_arch = "wasm32"))]
use super::poller::Poller;
use super::{Counts, Failure, Gpu, Shared, cause, matrices};
use crate::error::{Error, Result};
use crate::kernel::{AdapterClass, Cooperative, Profile, Vendor};

/// Which adapter to open: `AdapterOptions::default().adapter("nvidia".to_string())`.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct AdapterOptions {
    /// Graphics APIs to consider; `None` prefers native ones. [`wgpu`](crate::wgpu) is re-exported.
    pub backends: Option<wgpu::Backends>,
    /// Index in [`list_adapters`], or a part of the adapter's name, case-insensitive; `None`
    /// selects the best adapter.
    pub adapter: Option<String>,
    /// Use WebGPU's default limits, as in a browser, even if the device supports more.
    pub default_limits: bool,
    /// Use the kernels of adapters of this class instead of its own: what a GPU runs can so be
    /// tested on a driver that runs on the CPU.
    pub class: Option<AdapterClass>,
}

impl AdapterOptions {
    /// Graphics APIs to consider.
    #[must_use]
    pub fn backends(self, backends: impl Into<Option<wgpu::Backends>>) -> Self {
        Self { backends: backends.into(), ..self }
    }

    /// Index in [`list_adapters`], or a part of the adapter's name.
    #[must_use]
    pub fn adapter(self, adapter: impl Into<Option<String>>) -> Self {
        Self { adapter: adapter.into(), ..self }
    }

    /// Use the kernels of adapters of this class instead of its own.
    #[must_use]
    pub fn class(self, class: impl Into<Option<AdapterClass>>) -> Self {
        Self { class: class.into(), ..self }
    }

    /// Whether to use WebGPU's default limits, as in a browser.
    #[must_use]
    pub fn default_limits(self, default_limits: bool) -> Self {
        Self { default_limits, ..self }
    }
}

/// Properties of an adapter.
#[derive(Clone, Debug, serde::Serialize)]
pub struct AdapterSummary {
    /// Index, for [`AdapterOptions::adapter`].
    pub index: usize,
    /// Name reported by the driver.
    pub name: String,
    /// Graphics API.
    pub backend: String,
    /// Class, which determines default kernels.
    pub class: AdapterClass,
    /// Driver name and version.
    pub driver: String,
    /// Largest storage binding in bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer in bytes.
    pub max_buffer_bytes: u64,
    /// Workgroup memory in bytes.
    pub workgroup_memory_bytes: u32,
    /// Maximum invocations per workgroup.
    pub max_invocations: u32,
    /// Maximum storage buffers per kernel.
    pub storage_buffers: u32,
    /// Whether shaders support f16.
    pub f16: bool,
    /// Whether the device supports timestamps.
    pub timestamps: bool,
    /// Whether the device supports subgroup operations.
    pub subgroups: bool,
    /// Rows and columns of cooperative matrices; used by convolutions if the self-test passes when
    /// the device is opened.
    pub matrices: Option<usize>,
}

impl fmt::Display for AdapterSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.name, self.backend)?;
        if !self.driver.is_empty() {
            write!(f, ", {}", self.driver)?;
        }
        f.write_str(")")
    }
}

/// Lists the adapters of these backends. `None`: native ones, or OpenGL if there are no others.
/// Indices are those of [`AdapterOptions::adapter`].
pub async fn list_adapters(backends: Option<wgpu::Backends>) -> Vec<AdapterSummary> {
    adapters(backends).await.iter().enumerate().map(|(i, a)| summarise(i, a)).collect()
}

/// Advice for a system without an adapter of these backends.
pub fn adapter_advice(backends: Option<wgpu::Backends>) -> String {
    advice(backends, wgpu::Instance::enabled_backend_features())
}

fn advice(backends: Option<wgpu::Backends>, here: wgpu::Backends) -> String {
    const NAMES: [(wgpu::Backends, &str); 5] = [
        (wgpu::Backends::VULKAN, "vulkan"),
        (wgpu::Backends::METAL, "metal"),
        (wgpu::Backends::DX12, "dx12"),
        (wgpu::Backends::GL, "gl"),
        (wgpu::Backends::BROWSER_WEBGPU, "webgpu"),
    ];
    let list = |set: wgpu::Backends| -> String {
        NAMES
            .iter()
            .filter(|(one, _)| set.contains(*one))
            .map(|(_, name)| *name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let wanted = backends.unwrap_or(here);
    let possible = wanted & here;
    if possible.is_empty() {
        return format!(
            "{} does not exist on this system: choose another backend ({}), or do not choose one",
            list(wanted),
            list(here)
        );
    }
    let driver = if possible.contains(wgpu::Backends::VULKAN) {
        "install a Vulkan driver"
    } else if possible.contains(wgpu::Backends::GL) {
        "install a driver for OpenGL ES 3.1 or later"
    } else {
        "install the graphics driver of this system's vendor"
    };
    let others = if possible == here {
        String::new()
    } else {
        format!(", allow backends other than {}", list(wanted))
    };
    format!("{driver}{others}, or use the CPU (`DeviceChoice::Cpu`)")
}

/// The adapters of these backends. `None`: native ones, or OpenGL if there are no others.
async fn adapters(backends: Option<wgpu::Backends>) -> Vec<wgpu::Adapter> {
    let Some(backends) = backends else {
        let native = adapters_of(wgpu::Backends::PRIMARY).await;
        return if native.is_empty() { adapters_of(wgpu::Backends::GL).await } else { native };
    };
    adapters_of(backends).await
}

async fn adapters_of(backends: wgpu::Backends) -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends;
    let instance = wgpu::Instance::new(descriptor);
    #[cfg(not(target_arch = "wasm32"))]
    {
        instance.enumerate_adapters(backends).await
    }
    #[cfg(target_arch = "wasm32")]
    {
        instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await.into_iter().collect()
    }
}

fn class_of(info: &wgpu::AdapterInfo) -> AdapterClass {
    match info.device_type {
        wgpu::DeviceType::DiscreteGpu | wgpu::DeviceType::VirtualGpu => AdapterClass::Discrete,
        wgpu::DeviceType::Cpu => AdapterClass::Software,
        // OpenGL and browsers do not report the device type; software rasterizers are recognized by
        // name.
        _ if ["llvmpipe", "swiftshader", "softpipe", "basic render"]
            .iter()
            .any(|name| info.name.to_lowercase().contains(name)) =>
        {
            AdapterClass::Software
        }
        wgpu::DeviceType::IntegratedGpu | wgpu::DeviceType::Other => AdapterClass::Integrated,
    }
}

fn summarise(index: usize, adapter: &wgpu::Adapter) -> AdapterSummary {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let driver = format!("{} {}", info.driver, info.driver_info).trim().to_string();
    let class = class_of(&info);
    AdapterSummary {
        index,
        class,
        name: info.name,
        backend: info.backend.to_string(),
        driver,
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_buffer_bytes: limits.max_buffer_size,
        workgroup_memory_bytes: limits.max_compute_workgroup_storage_size,
        max_invocations: limits.max_compute_invocations_per_workgroup,
        storage_buffers: limits.max_storage_buffers_per_shader_stage,
        f16: features.contains(wgpu::Features::SHADER_F16),
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
        subgroups: features.contains(wgpu::Features::SUBGROUP),
        matrices: matrices_of(adapter, class).map(|m| m.size),
    }
}

/// Real GPUs before software, native APIs before OpenGL, discrete before integrated.
fn preference(summary: &AdapterSummary) -> (AdapterRank, bool) {
    let rank = match summary.class {
        AdapterClass::Discrete => AdapterRank::Discrete,
        AdapterClass::Integrated => AdapterRank::Integrated,
        AdapterClass::Software | AdapterClass::Cpu => AdapterRank::Software,
    };
    (rank, summary.backend == "gl")
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum AdapterRank {
    Discrete,
    Integrated,
    Software,
}

fn select(summaries: &[AdapterSummary], wanted: Option<&str>, advice: &str) -> Result<usize> {
    let able = |s: &&AdapterSummary| s.storage_buffers >= 8 && s.max_invocations >= 128;
    let names = || {
        let lines: Vec<String> = summaries.iter().map(|s| format!("\n  {}: {s}", s.index)).collect();
        if lines.is_empty() { format!(" none at all; {advice}") } else { lines.concat() }
    };
    let Some(wanted) = wanted else {
        let best = summaries.iter().filter(able).min_by_key(|s| preference(s));
        return best.map(|s| s.index).ok_or_else(|| {
            Error::NoAdapter(format!("none found that runs compute shaders; found:{}", names()))
        });
    };
    let by_index = wanted.parse::<usize>().ok().filter(|i| *i < summaries.len());
    let by_name = || {
        let matching = summaries.iter().filter(|s| s.name.to_lowercase().contains(&wanted.to_lowercase()));
        matching.min_by_key(|s| preference(s)).map(|s| s.index)
    };
    by_index
        .or_else(by_name)
        .ok_or_else(|| Error::NoAdapter(format!("none matches `{wanted}`; found:{}", names())))
}

/// Opens the device of an adapter. Also returns the cooperative matrices that it claims to support,
/// untested, if `with_matrices`.
pub(crate) async fn open(
    options: &AdapterOptions,
    with_matrices: bool,
) -> Result<(Gpu, Option<Cooperative>)> {
    let adapters = adapters(options.backends).await;
    let summaries: Vec<AdapterSummary> = adapters.iter().enumerate().map(|(i, a)| summarise(i, a)).collect();
    let index = select(&summaries, options.adapter.as_deref(), &adapter_advice(options.backends))?;
    let (adapter, summary) = (&adapters[index], summaries[index].clone());

    let limits = negotiate(&adapter.limits(), options.default_limits);
    let wanted = with_matrices && !options.default_limits;
    let mut matrices = matrices_of(adapter, summary.class).filter(|_| wanted);
    let opened = match &matrices {
        Some(_) => request(adapter, &limits, MATRIX_FEATURES).await,
        None => request(adapter, &limits, wgpu::Features::empty()).await,
    };
    let (device, queue) = match opened {
        Err(reason) if matrices.is_some() => {
            log::info!("{summary}: cooperative matrices are not available: {reason}");
            matrices = None;
            request(adapter, &limits, wgpu::Features::empty()).await
        }
        opened => opened,
    }
    .map_err(|source| Error::Device { adapter: summary.name.clone(), source: cause(source) })?;

    let failures: Arc<Mutex<Vec<Failure>>> = Arc::default();
    let sink = Arc::clone(&failures);
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        sink.lock().unwrap_or_else(PoisonError::into_inner).push(error.into());
    }));
    let sink = Arc::clone(&failures);
    device.set_device_lost_callback(move |reason, message| {
        if reason != wgpu::DeviceLostReason::Destroyed {
            sink.lock().unwrap_or_else(PoisonError::into_inner).push(Failure::Lost(message));
        }
    });

    let class = options.class.unwrap_or(summary.class);
    let info = adapter.get_info();
    let profile = Profile {
        class,
        vendor: Vendor::of(info.vendor, &format!("{} {}", info.name, info.driver)),
        binding: limits.max_storage_buffer_binding_size,
        buffer: limits.max_buffer_size,
        workgroup_memory: limits.max_compute_workgroup_storage_size,
        invocations: limits.max_compute_invocations_per_workgroup,
        workgroup: [
            limits.max_compute_workgroup_size_x,
            limits.max_compute_workgroup_size_y,
            limits.max_compute_workgroup_size_z,
        ],
        alignment: u64::from(
            limits.min_storage_buffer_offset_alignment.max(limits.min_uniform_buffer_offset_alignment),
        ),
        bake: class != AdapterClass::Software,
        grouped: AdapterClass::GPU.contains(&class),
        f16: device.features().contains(wgpu::Features::SHADER_F16),
        cooperative: None,
        subgroup: (device.features().contains(wgpu::Features::SUBGROUP)
            && adapter.get_info().subgroup_min_size == adapter.get_info().subgroup_max_size)
            .then(|| adapter.get_info().subgroup_max_size),
    };
    let pipelines = Mutex::new(HashMap::new());
    let gpu = Gpu {
        shared: Arc::new(Shared {
            device,
            queue,
            summary,
            profile,
            pipelines,
            failures,
            counts: Counts::default(),
            #[cfg(not(target_arch = "wasm32"))]
            awaited: Mutex::default(),
            #[cfg(not(target_arch = "wasm32"))]
            poller: Poller::default(),
            choices: Mutex::default(),
        }),
    };
    Ok((gpu, matrices))
}

/// Features used by kernels on cooperative matrices.
const MATRIX_FEATURES: wgpu::Features =
    wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SUBGROUP);

/// The cooperative matrices that an adapter claims to support, if it is a hardware GPU.
fn matrices_of(adapter: &wgpu::Adapter, class: AdapterClass) -> Option<Cooperative> {
    let able = adapter.features().contains(MATRIX_FEATURES | wgpu::Features::SHADER_F16);
    if !able || class == AdapterClass::Software {
        return None;
    }
    let info = adapter.get_info();
    // wgpu reports 64 for every Metal device, but Apple's SIMD groups have 32 lanes.
    let subgroup = if info.backend == wgpu::Backend::Metal { 32 } else { info.subgroup_max_size };
    matrices::pick(&adapter.cooperative_matrix_properties(), subgroup)
}

/// Opens a device with the optional features that the adapter has, and with `extra` ones.
async fn request(
    adapter: &wgpu::Adapter,
    limits: &wgpu::Limits,
    extra: wgpu::Features,
) -> Result<(wgpu::Device, wgpu::Queue), wgpu::RequestDeviceError> {
    let optional = wgpu::Features::SHADER_F16 | wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::SUBGROUP;
    let experimental_features = if extra.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
        // SAFETY: experimental features may have bugs that cause undefined behavior in the driver.
        // This one only runs the crate's own kernels, after convolutions in all three directions
        // have matched the CPU reference.
        #[allow(unsafe_code, reason = "cooperative matrices are behind wgpu's switch for experiments")]
        unsafe {
            wgpu::ExperimentalFeatures::enabled()
        }
    } else {
        wgpu::ExperimentalFeatures::disabled()
    };
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("incept"),
        required_features: (adapter.features() & optional) | extra,
        required_limits: limits.clone(),
        experimental_features,
        memory_hints: wgpu::MemoryHints::Performance,
        ..Default::default()
    };
    adapter.request_device(&descriptor).await
}

/// WebGPU's default limits for compute, raised to the adapter's where the engine benefits.
fn negotiate(available: &wgpu::Limits, defaults: bool) -> wgpu::Limits {
    let base = wgpu::Limits::downlevel_defaults();
    let mut limits = wgpu::Limits { ..base }.using_resolution(available.clone());
    let webgpu = wgpu::Limits::default();
    let pick = |has: u32, standard: u32| if defaults { has.min(standard) } else { has };
    limits.max_storage_buffers_per_shader_stage = available.max_storage_buffers_per_shader_stage.min(8);
    limits.max_compute_workgroup_storage_size =
        pick(available.max_compute_workgroup_storage_size, webgpu.max_compute_workgroup_storage_size);
    limits.max_compute_invocations_per_workgroup =
        pick(available.max_compute_invocations_per_workgroup, webgpu.max_compute_invocations_per_workgroup);
    limits.max_compute_workgroup_size_x =
        pick(available.max_compute_workgroup_size_x, webgpu.max_compute_workgroup_size_x);
    limits.max_compute_workgroup_size_y =
        pick(available.max_compute_workgroup_size_y, webgpu.max_compute_workgroup_size_y);
    limits.max_compute_workgroup_size_z =
        pick(available.max_compute_workgroup_size_z, webgpu.max_compute_workgroup_size_z);
    limits.max_compute_workgroups_per_dimension = available.max_compute_workgroups_per_dimension.min(65_535);
    limits.min_storage_buffer_offset_alignment = available.min_storage_buffer_offset_alignment;
    limits.min_uniform_buffer_offset_alignment = available.min_uniform_buffer_offset_alignment;
    let pick = |has: u64, standard: u64| if defaults { has.min(standard) } else { has };
    // wgpu binds at most 2 GiB - 1; this is a multiple of 16 bytes below.
    let most = (2 << 30) - 256;
    limits.max_storage_buffer_binding_size =
        pick(available.max_storage_buffer_binding_size, webgpu.max_storage_buffer_binding_size).min(most);
    limits.max_buffer_size = pick(available.max_buffer_size, webgpu.max_buffer_size);
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(index: usize, name: &str, backend: &str, class: AdapterClass) -> AdapterSummary {
        AdapterSummary {
            index,
            name: name.into(),
            backend: backend.into(),
            class,
            driver: String::new(),
            max_binding_bytes: 128 << 20,
            max_buffer_bytes: 256 << 20,
            workgroup_memory_bytes: 16 << 10,
            max_invocations: 256,
            storage_buffers: 8,
            f16: false,
            timestamps: false,
            subgroups: false,
            matrices: None,
        }
    }

    #[test]
    fn hardware_and_native_backends_are_preferred() -> Result<()> {
        let list = [
            adapter(0, "llvmpipe", "vulkan", AdapterClass::Software),
            adapter(1, "Big GPU", "gl", AdapterClass::Discrete),
            adapter(2, "Big GPU", "vulkan", AdapterClass::Discrete),
            adapter(3, "Small GPU", "vulkan", AdapterClass::Integrated),
        ];
        assert_eq!(select(&list, None, "")?, 2);
        assert_eq!(select(&list, Some("small"), "")?, 3);
        assert_eq!(select(&list, Some("1"), "")?, 1);
        assert!(select(&list, Some("other"), "").is_err());
        Ok(())
    }

    #[test]
    fn adapter_advice_matches_the_requested_backend() {
        use wgpu::Backends;
        let linux = Backends::VULKAN | Backends::GL;
        let metal = advice(Some(Backends::METAL), linux);
        assert!(metal.contains("metal does not exist") && metal.contains("vulkan, gl"), "{metal}");
        assert!(!metal.contains("install"), "{metal}");
        let gl = advice(Some(Backends::GL), linux);
        assert!(
            gl.contains("OpenGL") && gl.contains("backends other than gl") && !gl.contains("Vulkan"),
            "{gl}"
        );
        let none = advice(None, linux);
        assert!(
            none.starts_with("install a Vulkan driver") && none.contains("`DeviceChoice::Cpu`"),
            "{none}"
        );
        assert!(!advice(None, Backends::METAL).contains("Vulkan"));
    }
}
