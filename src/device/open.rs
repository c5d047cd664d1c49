//! Choosing a device.

use super::Device;
use crate::cpu::Cpu;
use crate::error::{Error, Result};
use crate::gpu::{AdapterOptions, AdapterSummary, Gpu, list_adapters};
use crate::kernel::AdapterClass;

/// Which device to open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceChoice {
    /// A hardware GPU, or the CPU if there is none. Software adapters, which run shaders on the CPU
    /// more slowly, are opened only by name, or if graphics APIs are chosen.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A hardware GPU.
    Gpu,
    /// The adapter with this index in [`list_adapters`], or with this part of its name.
    Adapter(String),
}

impl From<&str> for DeviceChoice {
    fn from(text: &str) -> Self {
        match text.to_lowercase().as_str() {
            "" | "auto" => Self::Auto,
            "cpu" => Self::Cpu,
            "gpu" => Self::Gpu,
            _ => Self::Adapter(text.to_string()),
        }
    }
}

/// How to open a device: `DeviceOptions::default().choice("cpu").threads(2)`.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DeviceOptions {
    /// Which device.
    pub choice: DeviceChoice,
    /// Graphics APIs to consider; `None` prefers native ones.
    pub backends: Option<wgpu::Backends>,
    /// Whether a GPU has WebGPU's default limits only, as in a browser.
    pub default_limits: bool,
    /// Threads of the CPU; `None` for one per core.
    pub threads: Option<usize>,
}

impl DeviceOptions {
    /// Which device, or its name.
    #[must_use]
    pub fn choice(self, choice: impl Into<DeviceChoice>) -> Self {
        Self { choice: choice.into(), ..self }
    }

    /// Graphics APIs to consider.
    #[must_use]
    pub fn backends(self, backends: impl Into<Option<wgpu::Backends>>) -> Self {
        Self { backends: backends.into(), ..self }
    }

    /// Whether a GPU has WebGPU's default limits only, as in a browser.
    #[must_use]
    pub fn default_limits(self, default_limits: bool) -> Self {
        Self { default_limits, ..self }
    }

    /// Threads of the CPU.
    #[must_use]
    pub fn threads(self, threads: impl Into<Option<usize>>) -> Self {
        Self { threads: threads.into(), ..self }
    }
}

/// An open device, and why it was chosen.
#[derive(Debug)]
#[non_exhaustive]
pub struct Opened {
    /// The device.
    pub device: Device,
    /// Why it was chosen; empty if it is what was asked for.
    pub reason: String,
    /// Software adapters that were not opened.
    pub software: Vec<AdapterSummary>,
}

impl Device {
    /// Opens a device, waiting on this thread.
    ///
    /// # Errors
    /// As [`Device::open`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open_blocking(options: &DeviceOptions) -> Result<Opened> {
        pollster::block_on(Self::open(options))
    }

    /// Opens a device.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if no adapter matches the choice, [`Error::Device`] if an adapter
    /// cannot be opened, and those of [`Cpu::new`].
    pub async fn open(options: &DeviceOptions) -> Result<Opened> {
        let as_asked = |device| Opened { device, reason: String::new(), software: Vec::new() };
        let adapter = |adapter: Option<String>| AdapterOptions {
            backends: options.backends,
            adapter,
            default_limits: options.default_limits,
            class: None,
        };
        let gpu = match &options.choice {
            DeviceChoice::Cpu => return Ok(as_asked(Cpu::new(options.threads)?.into())),
            DeviceChoice::Adapter(name) => adapter(Some(name.clone())),
            DeviceChoice::Auto if options.backends.is_some() => adapter(None),
            DeviceChoice::Auto | DeviceChoice::Gpu => return Self::hardware(options, adapter(None)).await,
        };
        Ok(as_asked(Gpu::open(&gpu).await?.into()))
    }

    /// The best hardware GPU, else the CPU if that was not excluded.
    async fn hardware(options: &DeviceOptions, adapter: AdapterOptions) -> Result<Opened> {
        let found = list_adapters(options.backends).await;
        let (hardware, software): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|adapter| AdapterClass::GPU.contains(&adapter.class));
        let names: Vec<&str> = software.iter().map(|adapter| adapter.name.as_str()).collect();
        let unused = if names.is_empty() {
            String::new()
        } else {
            format!("; {} runs shaders on the CPU and is used only by name", names.join(", "))
        };
        let reason = if hardware.is_empty() {
            format!("no GPU was found{unused}")
        } else {
            match Gpu::open(&adapter).await {
                Ok(gpu) if gpu.summary().class != AdapterClass::Software => {
                    return Ok(Opened { device: gpu.into(), reason: String::new(), software });
                }
                Ok(_) => format!("no GPU runs compute shaders{unused}"),
                Err(error) if options.choice == DeviceChoice::Gpu => return Err(error),
                Err(error) => format!("the GPU cannot be opened: {error}"),
            }
        };
        if options.choice == DeviceChoice::Gpu {
            return Err(Error::NoAdapter(reason));
        }
        Ok(Opened { device: Cpu::new(options.threads)?.into(), reason, software })
    }
}
