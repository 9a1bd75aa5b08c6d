//! Short names for pod templates.

use k8s_openapi::api::core::v1::PodTemplateSpec;

/// The name part and label value that tell templates apart. FNV-1a over the template, encoded without vowels. (The
/// value need not equal what another implementation computes: sets and revisions are recognised by their template.)
pub(crate) fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash = 0x811c_9dc5_u32;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    };
    // serialising these types does not fail
    feed(&serde_json::to_vec(template).unwrap_or_default());
    if let Some(collisions) = collisions {
        feed(&collisions.to_le_bytes());
    }
    hash.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_tell_templates_and_collisions_apart() {
        let template = PodTemplateSpec::default();
        let plain = template_hash(&template, None);
        assert_eq!(plain, template_hash(&template, None));
        assert_ne!(plain, template_hash(&template, Some(1)));
        assert!(plain.len() >= 5 && plain.chars().all(|c| "bcdfghjklmnpqrstvwxz2456789".contains(c)));
    }
}
