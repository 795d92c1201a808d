//! Certificates: read from a Secret, and made.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, date_time_ymd,
};
use x509_parser::{
    extensions::GeneralName,
    pem::Pem,
    prelude::{FromDer, X509Certificate},
};

use super::plan::{Action, Lives, later};

/// How far back a certificate begins, for API servers whose clock is behind; a tenth of its life at most.
const BACKDATED: std::time::Duration = std::time::Duration::from_mins(5);

/// What the Secret holds, all of it PEM. Empty where something is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Material {
    /// The authorities that are trusted, the one in use first.
    pub(crate) bundle: String,
    /// Key of the authority in use.
    pub(crate) ca_key: String,
    /// The injector's certificate.
    pub(crate) leaf_pem: String,
    /// The injector's key.
    pub(crate) leaf_key: String,
}

/// What is asked of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    pub(crate) subject: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    pub(crate) dns_names: Vec<String>,
}

const CA: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const LEAF: &str = "tls.crt";
const LEAF_KEY: &str = "tls.key";

impl Material {
    pub(crate) fn read(secret: Secret) -> Self {
        let mut data = secret.data.unwrap_or_default();
        let mut text = |key: &str| data.remove(key).and_then(|it| String::from_utf8(it.0).ok()).unwrap_or_default();
        Self { bundle: text(CA), ca_key: text(CA_KEY), leaf_pem: text(LEAF), leaf_key: text(LEAF_KEY) }
    }

    pub(crate) fn data(&self) -> BTreeMap<String, ByteString> {
        let parts = [(CA, &self.bundle), (CA_KEY, &self.ca_key), (LEAF, &self.leaf_pem), (LEAF_KEY, &self.leaf_key)];
        parts.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec()))).collect()
    }

    /// The authority in use, if it is whole: its key fits.
    pub(crate) fn ca(&self) -> Option<Certificate> {
        Certificate::read(self.bundle.as_bytes(), &self.ca_key)
    }

    /// The injector's certificate, if it is whole.
    pub(crate) fn leaf(&self) -> Option<Certificate> {
        Certificate::read(self.leaf_pem.as_bytes(), &self.leaf_key)
    }

    /// When the injector's certificate ends.
    pub(crate) fn leaf_end(&self) -> Option<Timestamp> {
        Some(self.leaf()?.not_after)
    }

    /// Whether authorities are trusted that are no longer in use.
    pub(crate) fn has_old_authorities(&self) -> bool {
        self.authorities().nth(1).is_some()
    }

    fn authorities(&self) -> impl Iterator<Item = &str> {
        const END: &str = "-----END CERTIFICATE-----\n";
        self.bundle.split_inclusive(END).filter(|pem| !pem.trim().is_empty())
    }
}

impl Certificate {
    /// The first certificate of `pem`, if `key` is its key.
    fn read(pem: &[u8], key: &str) -> Option<Self> {
        let pem = Pem::iter_from_buffer(pem).next()?.ok()?;
        let (_, x509) = X509Certificate::from_der(&pem.contents).ok()?;
        let key = KeyPair::from_pem(key).ok()?;
        if x509.public_key().raw != key.subject_public_key_info() {
            return None;
        }
        let time = |seconds: i64| Timestamp::from_second(seconds).ok();
        let names = x509.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        Some(Self {
            subject: x509.subject().as_raw().to_vec(),
            issuer: x509.issuer().as_raw().to_vec(),
            not_before: time(x509.validity().not_before.timestamp())?,
            not_after: time(x509.validity().not_after.timestamp())?,
            dns_names: names.collect(),
        })
    }
}

/// Carries out `action` on `found`.
pub(super) fn make(action: Action, now: Timestamp, found: &Material, lives: &Lives) -> Result<Material, rcgen::Error> {
    match action {
        Action::Keep => Ok(found.clone()),
        Action::Prune => {
            Ok(Material { bundle: found.authorities().next().unwrap_or_default().to_owned(), ..found.clone() })
        }
        Action::RenewLeaf => {
            let issuer = Issuer::from_ca_cert_pem(&found.bundle, KeyPair::from_pem(&found.ca_key)?)?;
            leaf(now, lives, &issuer, found.bundle.clone(), found.ca_key.clone())
        }
        Action::RenewAll => {
            let params = authority(now, lives);
            let key = KeyPair::generate()?;
            let mut bundle = params.self_signed(&key)?.pem();
            let ca_key = key.serialize_pem();
            // Only the authority that was in use: an older one was on its way out already.
            if found.ca().is_some() {
                bundle.push_str(found.authorities().next().unwrap_or_default());
            }
            leaf(now, lives, &Issuer::new(params, key), bundle, ca_key)
        }
    }
}

fn leaf(
    now: Timestamp,
    lives: &Lives,
    issuer: &Issuer<'_, KeyPair>,
    bundle: String,
    ca_key: String,
) -> Result<Material, rcgen::Error> {
    let mut params = CertificateParams::new([lives.dns_name.clone()])?;
    params.distinguished_name = named("Firebreak injector");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    span(&mut params, now, later(now, lives.leaf));
    let key = KeyPair::generate()?;
    let leaf_pem = params.signed_by(&key, issuer)?.pem();
    Ok(Material { bundle, ca_key, leaf_pem, leaf_key: key.serialize_pem() })
}

/// An authority whose name says when it began, so that two of them are never taken for each other.
fn authority(now: Timestamp, lives: &Lives) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&format!("Firebreak CA {}", now.as_millisecond()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    span(&mut params, now, later(now, lives.ca));
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn span(params: &mut CertificateParams, from: Timestamp, to: Timestamp) {
    let epoch = date_time_ymd(1970, 1, 1);
    let seconds = |time: Timestamp| std::time::Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0));
    let life = seconds(to).saturating_sub(seconds(from));
    params.not_before = epoch + seconds(from) - BACKDATED.min(life / 10);
    params.not_after = epoch + seconds(to);
}
