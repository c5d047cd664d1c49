//! Finding an adapter and opening a device on it with the limits and features that it has.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(not(target_arch = "wasm32"))]
use super::poller::Poller;
use super::{Counts, Failure, Gpu, Shared, cause, matrices};
use crate::error::{Error, Result};
use crate::kernel::{AdapterClass, Cooperative, Profile};

/// Which adapter to open.
#[derive(Clone, Debug, Default)]
pub struct AdapterOptions {
    /// Only these graphics APIs; [`wgpu`](crate::wgpu) is what the crate was built with.
    pub backends: Option<wgpu::Backends>,
    /// The number in [`list_adapters`], or a part of the adapter's name in any case.
    pub adapter: Option<String>,
    /// Stay within WebGPU's default limits although the device has more: what a browser would give.
    pub default_limits: bool,
}

/// What is known of an adapter.
#[derive(Clone, Debug, serde::Serialize)]
pub struct AdapterSummary {
    /// Its number, for [`AdapterOptions::adapter`].
    pub index: usize,
    /// The name that the driver gives.
    pub name: String,
    /// The graphics API.
    pub backend: String,
    /// The class that chooses default kernels.
    pub class: AdapterClass,
    /// The driver's name and version.
    pub driver: String,
    /// Largest storage binding in bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer in bytes.
    pub max_buffer_bytes: u64,
    /// Workgroup memory in bytes.
    pub workgroup_memory_bytes: u32,
    /// Invocations of a workgroup.
    pub max_invocations: u32,
    /// Storage buffers that one kernel can bind.
    pub storage_buffers: u32,
    /// Whether shaders can use f16.
    pub f16: bool,
    /// Whether kernels can be timed on the device.
    pub timestamps: bool,
    /// Whether invocations can pass values without workgroup memory.
    pub subgroups: bool,
    /// Rows and columns of the cooperative matrices that convolutions use if they pass their test
    /// when the device is opened.
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

/// The adapters of these backends, or of the native ones (OpenGL's only where there is no other),
/// numbered as [`AdapterOptions::adapter`] takes them.
pub async fn list_adapters(backends: Option<wgpu::Backends>) -> Vec<AdapterSummary> {
    adapters(backends).await.iter().enumerate().map(|(i, a)| summarise(i, a)).collect()
}

/// What to do where these backends have no adapter.
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
            "{} does not exist on this system: choose another backend ({}) or none",
            list(wanted),
            list(here)
        );
    }
    let driver = if possible.contains(wgpu::Backends::VULKAN) {
        "install a Vulkan driver (mesa-vulkan-drivers has one for the CPU)"
    } else if possible.contains(wgpu::Backends::GL) {
        "install a driver for OpenGL ES 3.1 or later"
    } else {
        "install the graphics driver of this system's vendor"
    };
    let others = if possible == here {
        String::new()
    } else {
        format!(", or allow other backends than {}", list(wanted))
    };
    format!("{driver}{others}")
}

/// The adapters of these backends, or of the native ones; of OpenGL only where there is nothing
/// else.
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
        // OpenGL and browsers do not tell what the device is; software rasterisers give themselves
        // away by name.
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
        AdapterClass::Software => AdapterRank::Software,
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

/// Opens the device of an adapter, and says which cooperative matrices it claims to have, if those
/// are wanted: they are not proven yet.
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
            log::info!("{summary}: cooperative matrices are refused: {reason}");
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

    let profile = Profile {
        class: summary.class,
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
        bake: summary.class != AdapterClass::Software,
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

/// What kernels on cooperative matrices use.
const MATRIX_FEATURES: wgpu::Features =
    wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SUBGROUP);

/// The cooperative matrices that an adapter says it has, if it is a real GPU.
fn matrices_of(adapter: &wgpu::Adapter, class: AdapterClass) -> Option<Cooperative> {
    let able = adapter.features().contains(MATRIX_FEATURES | wgpu::Features::SHADER_F16);
    if !able || class == AdapterClass::Software {
        return None;
    }
    let info = adapter.get_info();
    // wgpu says 64 of every Metal device; Apple's SIMD groups have 32 lanes.
    let subgroup = if info.backend == wgpu::Backend::Metal { 32 } else { info.subgroup_max_size };
    matrices::pick(&adapter.cooperative_matrix_properties(), subgroup)
}

/// Opens a device with the features that every adapter is asked for where it has them, and `extra`
/// ones.
async fn request(
    adapter: &wgpu::Adapter,
    limits: &wgpu::Limits,
    extra: wgpu::Features,
) -> Result<(wgpu::Device, wgpu::Queue), wgpu::RequestDeviceError> {
    let optional = wgpu::Features::SHADER_F16 | wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::SUBGROUP;
    let experimental_features = if extra.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
        // SAFETY: experimental features may have bugs that lead to undefined behaviour in the
        // driver. The one that is asked for runs the crate's own kernels only, and those not before
        // convolutions in all three directions gave the CPU twin's results.
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

/// WebGPU's default limits for compute, raised to what the adapter has for the ones that the engine
/// can use more of.
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
    // wgpu binds at most 2 GiB - 1; whole vectors of four f32 fit in this.
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
    fn real_gpus_come_before_software_and_native_before_gl() -> Result<()> {
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
    fn advice_is_about_the_backend_that_was_asked_for() {
        use wgpu::Backends;
        let linux = Backends::VULKAN | Backends::GL;
        let metal = advice(Some(Backends::METAL), linux);
        assert!(metal.contains("metal does not exist") && metal.contains("vulkan, gl"), "{metal}");
        assert!(!metal.contains("install"), "{metal}");
        let gl = advice(Some(Backends::GL), linux);
        assert!(
            gl.contains("OpenGL") && gl.contains("other backends than gl") && !gl.contains("Vulkan"),
            "{gl}"
        );
        assert!(advice(None, linux).starts_with("install a Vulkan driver"));
        assert!(!advice(None, Backends::METAL).contains("Vulkan"));
    }
}
