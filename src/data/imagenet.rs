//! The names of ImageNet's classes (see `assets/imagenet/README.md`).

const NAMES: &str = include_str!("../../assets/imagenet/classes.txt");

/// The names of the 1,000 classes of ILSVRC 2012, in the label order of Caffe and torchvision.
pub fn imagenet_classes() -> Vec<String> {
    NAMES.lines().map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_names_are_1000_and_distinct() {
        let names = imagenet_classes();
        assert_eq!(names.len(), 1000);
        assert_eq!(
            (names[0].as_str(), names[281].as_str(), names[999].as_str()),
            ("tench", "tabby", "toilet tissue")
        );
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 1000);
    }
}
