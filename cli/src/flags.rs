//! What the command calls the things that the library calls by their fields: texts of the library
//! are told with the flags that change them.

use std::borrow::Cow;

/// Fields and methods as errors of the library name them, and the flags that set them.
const FLAGS: &[(&str, &str)] = &[
    ("ActivationMap::class", "--class"),
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
    ("Optimizer::clip_norm", "--max-grad-norm"),
    ("Optimizer::momentum", "--momentum"),
    ("Optimizer::precision", "--precision"),
    ("Optimizer::weight_decay", "--weight-decay"),
    ("Pace::rate", "--lr"),
    ("RunFolder::list", "incept runs"),
    ("Trainer::restore", "--resume"),
    ("data::open", "--help"),
    ("data::set_max_pixels", "--max-pixels"),
];

/// A text with the command's flags in the place of the library's fields.
pub(crate) fn flags(text: &str) -> Cow<'_, str> {
    let mut told = Cow::Borrowed(text);
    for (field, flag) in FLAGS {
        let field = format!("`{field}`");
        if told.contains(&field) {
            told = Cow::Owned(told.replace(&field, flag));
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use incept::Error;

    use super::*;

    #[test]
    fn errors_of_the_library_name_flags() {
        let told = |error: &Error| flags(&error.to_string()).into_owned();
        let range = Error::out_of_range("GoogLeNet::input", "at least 32", 16);
        assert_eq!(told(&range), "--image-size must be at least 32, not 16");
        let memory = told(&Error::OutOfMemory { context: "a run".into() });
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
            let told = told(&error);
            assert!(told.contains("--") && !told.contains("::"), "{told}");
        }
        // Names of others stay as they are.
        let layer = "layer `input`: GoogLeNet::input";
        assert_eq!(flags(layer), layer);
    }

    /// Every flag of the table is one of some command.
    #[test]
    fn flags_are_there() {
        fn has(command: &clap::Command, flag: &str) -> bool {
            command.get_opts().chain(command.get_arguments()).any(|arg| arg.get_long() == Some(flag))
                || command.get_subcommands().any(|command| has(command, flag))
        }
        let mut command = crate::Cli::command();
        command.build();
        for (field, flag) in FLAGS {
            if let Some(long) = flag.strip_prefix("--") {
                assert!(has(&command, long), "{field} is {flag}, which no command has");
            }
        }
    }
}
