//! What the operator is told on its command line or in its environment.

use firebreak_crds::spec::Duration;
use firebreak_runtime::{admin::AdminArgs, log::LogArgs};

/// Firebreak's operator: renders policies and faults for the proxies, and says what became of them.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "firebreak-operator", version)]
pub struct Args {
    /// The namespace that the operator runs in.
    #[arg(long, env = "FIREBREAK_NAMESPACE")]
    pub namespace: String,
    /// The name of this replica, unlike any other's: its pod's name.
    #[arg(long, env = "FIREBREAK_POD")]
    pub identity: String,
    /// Pods touched per second at most after a config has changed. 0 touches none: configs then arrive by the kubelet's own
    /// round, within about 90 seconds.
    #[arg(long, env = "FIREBREAK_POKES_PER_SECOND", default_value_t = 50)]
    pub pokes_per_second: u32,
    /// The injector's certificate.
    #[command(flatten)]
    pub certs: CertArgs,
    /// The admin port.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// How the injector's certificate is kept.
#[derive(Clone, Debug, clap::Args)]
pub struct CertArgs {
    /// Who makes the injector's certificate: the operator, or somebody else (cert-manager).
    #[arg(long = "certs", env = "FIREBREAK_CERTS", default_value = "managed")]
    pub mode: CertMode,
    /// Name of the Secret of the authority that signs it, which nobody else reads.
    #[arg(long = "ca-secret", env = "FIREBREAK_CA_SECRET", default_value = "firebreak-ca")]
    pub ca_secret: String,
    /// Name of the Secret of the certificate, which the injector reads.
    #[arg(long = "certs-secret", env = "FIREBREAK_CERTS_SECRET", default_value = "firebreak-injector-tls")]
    pub secret: String,
    /// Name of the injector's Service.
    #[arg(long = "injector-service", env = "FIREBREAK_INJECTOR_SERVICE", default_value = "firebreak-injector")]
    pub service: String,
    /// Name of the `MutatingWebhookConfiguration` whose caBundle is kept up to date.
    #[arg(long = "webhook", env = "FIREBREAK_WEBHOOK", default_value = "firebreak-injector")]
    pub webhook: String,
    /// Life of the certificate; it is renewed at two thirds.
    #[arg(long = "leaf-life", env = "FIREBREAK_LEAF_LIFE", default_value = "2160h")]
    pub leaf_life: Duration,
    /// Life of the authority that signs it; it is renewed at two thirds.
    #[arg(long = "ca-life", env = "FIREBREAK_CA_LIFE", default_value = "8760h")]
    pub ca_life: Duration,
}

/// Who makes the injector's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CertMode {
    /// The operator.
    Managed,
    /// Somebody else.
    External,
}
