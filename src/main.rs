//! The `incept` command.

mod cli;

fn main() -> std::process::ExitCode {
    quiet_wayland();
    cli::main()
}

/// Gives libwayland a folder to look for a compositor in where the session has none, as over ssh and in containers.
///
/// Mesa's Vulkan layer that puts the display's GPU first asks libwayland for a compositor whenever adapters are listed, and libwayland complains on
/// standard error if `XDG_RUNTIME_DIR` is not set. A folder in which there cannot be any socket is answered in silence, and hides nothing else.
#[cfg(target_os = "linux")]
fn quiet_wayland() {
    if std::env::var_os("XDG_RUNTIME_DIR").is_none_or(|folder| !folder.as_encoded_bytes().starts_with(b"/")) {
        #[allow(unsafe_code, reason = "the environment is the only thing that libwayland asks")]
        // SAFETY: nothing ran before this, so there is no other thread that could read the environment meanwhile.
        unsafe {
            std::env::set_var("XDG_RUNTIME_DIR", "/dev/null");
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn quiet_wayland() {}
