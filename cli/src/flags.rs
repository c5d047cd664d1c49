//! Flags for the library's field names: errors of the library name fields, and the command prints
//! the flags that set them.

use std::borrow::Cow;

/// Fields and methods in the library's errors, and the flags that set them.
const FLAGS: &[(&str, &str)] = &[
    ("ActivationMap::class", "--class"),
    ("DeviceChoice::Cpu", "--device cpu"),
    ("GoogLeNet::aux_dropout", "--aux-dropout"),
    ("GoogLeNet::aux_weight", "--aux-weight"),
    ("GoogLeNet::bias_rate", "--bias-rate"),
    ("GoogLeNet::class_weights", "--class-weights"),
    ("GoogLeNet::classes", "--classes"),
    ("GoogLeNet::dropout", "--dropout"),
    ("GoogLeNet::freeze_until", "--freeze-until"),
    ("GoogLeNet::input", "--image-size"),
    ("GoogLeNet::smoothing", "--label-smoothing"),
    ("GoogLeNet::width", "--width"),
    ("ImportOptions::prefix", "--prefix"),
    ("LoaderOptions::batch", "--batch-size"),
    ("LoaderOptions::max_bad", "--max-bad"),
    ("LoaderOptions::workers", "--workers"),
    ("Mix::cutmix", "--cutmix"),
    ("Mix::mixup", "--mixup"),
    ("Occlusion::stride", "--stride"),
    ("Occlusion::window", "--window"),
    ("OcclusionMap::class", "--class"),
    ("OnnxOptions::aux", "--aux"),
    ("OpenOptions::val_split", "--val-split"),
    ("Optimizer::accumulate", "--grad-accum"),
    ("Optimizer::average", "--average"),
    ("Optimizer::checkpointing", "--grad-checkpointing"),
    ("Optimizer::max_grad_norm", "--max-grad-norm"),
    ("Optimizer::momentum", "--momentum"),
    ("Optimizer::precision", "--precision"),
    ("Optimizer::weight_decay", "--weight-decay"),
    ("Pace::lr", "--lr"),
    ("RunFolder::list", "incept runs"),
    ("Trainer::restore", "--resume"),
    ("data::open", "--help"),
    ("data::set_max_pixels", "--max-pixels"),
];

/// Replaces the library's fields in a text with the command's flags.
pub(crate) fn flags(text: &str) -> Cow<'_, str> {
    let mut replaced = Cow::Borrowed(text);
    for (field, flag) in FLAGS {
        let field = format!("`{field}`");
        if replaced.contains(&field) {
            replaced = Cow::Owned(replaced.replace(&field, flag));
        }
    }
    replaced
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use incept::Error;

    use super::*;

    #[test]
    fn errors_of_the_library_name_flags() {
        let printed = |error: &Error| flags(&error.to_string()).into_owned();
        let range = Error::out_of_range("GoogLeNet::input", "at least 32", 16);
        assert_eq!(printed(&range), "--image-size must be at least 32, not 16");
        let memory = printed(&Error::OutOfMemory { context: "a run".into() });
        assert!(
            memory.contains("a smaller --batch-size, --image-size or --width") && !memory.contains("::"),
            "{memory}"
        );
        for error in [
            Error::Diverged { step: 1 },
            Error::DivergedInF16 { step: 1 },
            Error::Overflows { step: 1 },
            Error::Spoiled { tensor: "w".into(), epochs: 1 },
            Error::NoF16 { adapter: "a".into() },
            Error::DeviceLost("it fell off".into()),
            Error::TooManyBad { bad: 3, max: 2, source: Box::new(Error::Interrupted) },
        ] {
            let text = printed(&error);
            assert!(text.contains("--") && !text.contains("::"), "{text}");
        }
        // Without backquotes it is not one of the library's fields.
        let layer = "layer `input`: GoogLeNet::input";
        assert_eq!(flags(layer), layer);
    }

    #[test]
    fn flags_of_the_table_exist() {
        fn has(command: &clap::Command, flag: &str) -> bool {
            command.get_opts().chain(command.get_arguments()).any(|arg| arg.get_long() == Some(flag))
                || command.get_subcommands().any(|command| has(command, flag))
        }
        let mut command = crate::Cli::command();
        command.build();
        for (field, flag) in FLAGS {
            // One that sets a value is followed by it.
            if let Some(long) = flag.strip_prefix("--").and_then(|flag| flag.split(' ').next()) {
                assert!(has(&command, long), "{field} is {flag}, which no command has");
            }
        }
    }
}
