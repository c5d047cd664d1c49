//! The program `incept`.

use std::process::ExitCode;

fn main() -> ExitCode {
    quiet_wayland();
    ExitCode::from(incept_cli::run(std::env::args_os()))
}

/// Sets `XDG_RUNTIME_DIR` where the session has none, as over ssh and in containers.
///
/// Mesa's device-select Vulkan layer connects to a Wayland compositor whenever adapters are listed,
/// and libwayland prints an error if `XDG_RUNTIME_DIR` is not set. With a path that cannot contain
/// a socket it fails silently.
#[cfg(target_os = "linux")]
fn quiet_wayland() {
    if std::env::var_os("XDG_RUNTIME_DIR").is_none_or(|folder| !folder.as_encoded_bytes().starts_with(b"/")) {
        #[allow(unsafe_code, reason = "libwayland reads this setting from the environment only")]
        // SAFETY: this is the first call in main, so no other thread can read the environment.
        unsafe {
            std::env::set_var("XDG_RUNTIME_DIR", "/dev/null");
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn quiet_wayland() {}
