//! Feature gates: `--feature-gates A=true,B=false` and the `featureGates` of configuration files.
//!
//! Every gate of v1.36 is known with its default state, so that a command line written for upstream's binaries is
//! understood. What this tree does is what the defaults say: asking for the default is accepted, asking for the other
//! state of a gate is refused, because nothing would change. Source: upstream's versioned list of gates.

use std::collections::BTreeMap;

/// Gates that are on by default in v1.36.
const ON: &str = "
    APIResponseCompression APIServerIdentity APIServerTracing AggregatedDiscoveryRemoveBetaType
    AllowParsingUserUIDFromCertAuth AllowServiceExternalIPs AnonymousAuthConfigurableEndpoints
    AuthorizeNodeWithSelectors AuthorizePodWebsocketUpgradeCreatePermission AuthorizeWithSelectors
    CPUManagerPolicyBetaOptions CPUManagerPolicyOptions CRDObservedGenerationTracking CRDValidationRatcheting
    CSIServiceAccountTokenSecrets ClearingNominatedNodeNameAfterBinding ComponentFlagz ComponentStatusz
    ConsistentListFromCache ConstrainedImpersonation ContainerCheckpoint ContainerRestartRules ContextualLogging
    CustomCPUCFSQuotaPeriod CustomResourceFieldSelectors DRAAdminAccess DRAConsumableCapacity
    DRADeviceBindingConditions DRADeviceTaints DRAExtendedResource DRAPartitionableDevices DRAPrioritizedList
    DRAResourceClaimDeviceStatus DRAResourceClaimGranularStatusAuthorization DRASchedulerFilterTimeout
    DeclarativeValidation DeclarativeValidationBeta DeploymentReplicaSetTerminatingReplicas DetectCacheInconsistency
    DisableAllocatorDualWrite DisableCPUQuotaWithExclusiveCPUs DisableNodeKubeProxyVersion DynamicResourceAllocation
    EnvFiles ExecProbeTimeout ExtendWebSocketsToKubelet ExternalServiceAccountTokenSigner GracefulNodeShutdown
    GracefulNodeShutdownBasedOnPodPriority HPAConfigurableTolerance HostnameOverride ImageMaximumGCAge ImageVolume
    InPlacePodLevelResourcesVerticalScaling InPlacePodVerticalScaling InPlacePodVerticalScalingInitContainers
    JobManagedBy JobPodReplacementPolicy KubeProxyIPVS KubeletCgroupDriverFromCRI KubeletCrashLoopBackOffMax
    KubeletEnsureSecretPulledImages KubeletFineGrainedAuthz KubeletPSI KubeletPodResourcesDynamicResources
    KubeletPodResourcesGet KubeletPodResourcesListUseActivePods KubeletSeparateDiskGC
    KubeletServiceAccountTokenForCredentialProviders KubeletTracing ListFromCacheSnapshot LoggingBetaOptions
    MatchLabelKeysInPodAffinity MatchLabelKeysInPodTopologySpread MatchLabelKeysInPodTopologySpreadSelectorMerge
    MultiCIDRServiceAllocator MutableCSINodeAllocatableCount MutablePodResourcesForSuspendedJobs
    MutableSchedulingDirectivesForSuspendedJobs MutatingAdmissionPolicy NFTablesProxyMode NodeDeclaredFeatures
    NodeInclusionPolicyInPodTopologySpread NodeLogQuery NodeSwap NominatedNodeNameForExpectation OpenAPIEnums
    OpportunisticBatching OrderedNamespaceDeletion PLEGOnDemandRelist PodDeletionCost PodLevelResources
    PodObservedGenerationTracking PodReadyToStartContainersCondition PodSchedulingReadiness
    PodTopologyLabelsAdmission PortForwardWebsockets PreferSameTrafficDistribution ProcMountType
    RecoverVolumeExpansionFailure RecursiveReadOnlyMounts RelaxedEnvironmentVariableValidation
    RelaxedServiceNameValidation ReloadKubeletClientCAFile ReloadKubeletServerCertificateFile RemoteRequestHeaderUID
    ResilientWatchCacheInitialization ResourceHealthStatus ResourceHealthStatusMessage
    RestartAllContainersOnContainerExits RotateKubeletServerCertificate SELinuxChangePolicy
    SELinuxMountReadWriteOncePod SchedulerAsyncPreemption SchedulerPopFromBackoffQ SeparateTaintEvictionController
    ServiceAccountNodeAudienceRestriction ServiceAccountTokenJTI ServiceAccountTokenNodeBinding
    ServiceAccountTokenNodeBindingValidation ServiceAccountTokenPodNodeInfo ServiceCIDRStatusFieldWiping
    SizeBasedListCostEstimate StaleControllerConsistencyDaemonSet StaleControllerConsistencyJob
    StaleControllerConsistencyReplicaSet StaleControllerConsistencyStatefulSet
    StatefulSetSemanticRevisionComparison StorageNamespaceIndex StorageVersionHash StrictIPCIDRValidation
    StructuredAuthenticationConfiguration StructuredAuthenticationConfigurationEgressSelector
    StructuredAuthenticationConfigurationJWKSMetrics SupplementalGroupsPolicy SystemdWatchdog
    TokenRequestServiceAccountUIDValidation TopologyManagerPolicyBetaOptions TopologyManagerPolicyOptions
    TranslateStreamCloseWebsocketRequests UnauthenticatedHTTP2DOSMitigation UnknownVersionInteroperabilityProxy
    UserNamespacesSupport VolumeAttributesClass WatchCacheInitializationPostStartHook WatchList WinDSR WinOverlay
    WindowsGracefulNodeShutdown
";

/// Gates that are off by default in v1.36.
const OFF: &str = "
    APIServingWithRoutine AllAlpha AllBeta AllowDNSOnlyNodeCSR AllowInsecureKubeletCertificateSigningRequests
    AllowOverwriteTerminationGracePeriodSeconds AllowUnsafeMalformedObjectDeletion CBORServingAndStorage
    CPUManagerPolicyAlphaOptions CRIListStreaming CSIVolumeHealth ChangeContainerStatusOnKubeletRestart
    CloudControllerManagerWatchBasedRoutesReconciliation CloudControllerManagerWebhook ClusterTrustBundle
    ClusterTrustBundleProjection ConcurrentWatchObjectDecode ContainerStopSignals
    ControllerManagerReleaseLeaderElectionLockOnExit CoordinatedLeaderElection CrossNamespaceVolumeDataSource
    DRADeviceTaintRules DRAListTypeAttributes DRANodeAllocatableResources DRAResourcePoolStatus
    DRAWorkloadResourceClaims DeclarativeValidationTakeover EventedPLEG GenericWorkload GitRepoVolumeDriver
    HPAScaleToZero ImageVolumeWithDigest InPlacePodVerticalScalingExclusiveCPUs
    InPlacePodVerticalScalingExclusiveMemory KMSv1 KubeletInUserNamespace KubeletRegistrationGetOnExistsOnly
    LocalStorageCapacityIsolationFSQuotaMonitoring LoggingAlphaOptions ManifestBasedAdmissionControlConfig
    MaxUnavailableStatefulSet MemoryQoS MutablePVNodeAffinity NativeHistograms PersistentVolumeClaimUnusedSinceTime
    PodAndContainerStatsFromCRI PodCertificateRequest PodLevelResourceManagers PodLogsQuerySplitStreams PodsAPI
    QOSReserved ReduceDefaultCrashLoopBackOffDecay RuntimeClassInImageCriApi SELinuxMount SchedulerAsyncAPICalls
    SeparateCacheWatchRPC ShardedListAndWatch StorageCapacityScoring StorageVersionAPI StorageVersionMigrator
    TaintTolerationComparisonOperators TopologyAwareWorkloadScheduling TopologyManagerPolicyAlphaOptions
    UserNamespacesHostNetworkSupport VolumeLimitScaling WindowsCPUAndMemoryAffinity WindowsHostNetwork
    WorkloadWithJob
";

/// Why gates cannot be set as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// Nobody knows this gate.
    #[error("unrecognized feature gate: {0}")]
    Unknown(String),
    /// The gate is known, but this build has only its default state.
    #[error("cannot set feature gate {gate} to {asked}, this build only does its default, {default}", default = !asked)]
    OnlyDefault {
        /// Which gate.
        gate: String,
        /// The state that was asked for.
        asked: bool,
    },
}

/// The default state of a gate in v1.36, `None` for one that does not exist.
pub fn default_state(gate: &str) -> Option<bool> {
    let within = |list: &str| list.split_ascii_whitespace().any(|known| known == gate);
    if within(ON) {
        Some(true)
    } else if within(OFF) {
        Some(false)
    } else {
        None
    }
}

/// Every gate with its default state.
pub fn all() -> BTreeMap<&'static str, bool> {
    let on = ON.split_ascii_whitespace().map(|gate| (gate, true));
    on.chain(OFF.split_ascii_whitespace().map(|gate| (gate, false))).collect()
}

/// Checks that what is asked for is what this build does.
pub fn check<'a>(given: impl IntoIterator<Item = (&'a str, bool)>) -> Result<(), GateError> {
    for (gate, asked) in given {
        match default_state(gate) {
            None => return Err(GateError::Unknown(gate.to_owned())),
            Some(default) if default != asked => {
                return Err(GateError::OnlyDefault { gate: gate.to_owned(), asked });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_accepted_and_the_rest_is_refused() {
        assert_eq!(check([("NodeSwap", true), ("EventedPLEG", false), ("AllAlpha", false)]), Ok(()));
        for (gate, asked, text) in [
            ("NoSuchGate", true, "unrecognized feature gate: NoSuchGate"),
            (
                "EventedPLEG",
                true,
                "cannot set feature gate EventedPLEG to true, this build only does its default, false",
            ),
            (
                "NodeSwap",
                false,
                "cannot set feature gate NodeSwap to false, this build only does its default, true",
            ),
        ] {
            assert_eq!(check([(gate, asked)]).map_err(|e| e.to_string()), Err(text.to_owned()));
        }
    }

    #[test]
    fn no_gate_is_listed_twice() {
        let listed = ON.split_ascii_whitespace().count() + OFF.split_ascii_whitespace().count();
        assert_eq!(all().len(), listed);
    }
}
