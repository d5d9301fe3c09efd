package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Conditions of a Warehouse, in the order its steps keep them; Admitted and
// Released are those of claims.
const (
	Wanted             = "Wanted"             // nobody asked to deprovision it
	Requested          = "Requested"          // the provider holds what the spec asks for
	MetadataStoreReady = "MetadataStoreReady" // its PostgreSQL is up
	DataStoreReady     = "DataStoreReady"     // its bucket is there
	IdentityReady      = "IdentityReady"      // the role that reaches the bucket is there
	SecretsReady       = "SecretsReady"       // the metadata store's password is there
	Provisioned        = "Provisioned"        // the provider says that all of it is up
	Usable             = "Usable"             // a login on the path that workers use worked
)

// Warehouse is an organisation's lakehouse: a PostgreSQL for metadata, a bucket
// for data, a cloud role that reaches it, and their secrets. Its name is the
// id of its Org.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=wh,categories=berth
// +kubebuilder:printcolumn:name="Provider",type=string,JSONPath=`.spec.provider`
// +kubebuilder:printcolumn:name="Bucket",type=string,JSONPath=`.status.dataStore.bucketName`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
//
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,33}[a-z0-9])?$') || self.metadata.name.matches('^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$')",message="metadata.name: an org id is a DNS-1123 label of at most 35 characters, or a UUID in lower case"
type Warehouse struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   WarehouseSpec   `json:"spec"`
	Status WarehouseStatus `json:"status,omitempty"`
}

// WarehouseList is a list of warehouses.
//
// +kubebuilder:object:root=true
type WarehouseList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Warehouse `json:"items"`
}

// WarehouseSpec is what an organisation asked for.
//
// +kubebuilder:validation:XValidation:rule="self.attempt >= oldSelf.attempt",message="spec.attempt: only counts up"
// +kubebuilder:validation:XValidation:rule="!(has(oldSelf.deprovision) && oldSelf.deprovision) || (has(self.deprovision) && self.deprovision) || self.attempt > oldSelf.attempt",message="spec.deprovision: cannot be taken back; provision anew by adding one to spec.attempt"
// +kubebuilder:validation:XValidation:rule="self.provider != 'direct' || self.metadataStore.type == 'class'",message="spec.metadataStore.type: provider direct has its metadata store from a DatabaseClass; set it to class"
// +kubebuilder:validation:XValidation:rule="self.provider != 'duckling' || self.metadataStore.type != 'class'",message="spec.metadataStore.type: provider duckling knows aurora, cnpg-shard and external"
type WarehouseSpec struct {
	// Provider duckling has everything made by a Duckling composite; direct
	// uses a DatabaseClass, and an S3 server with its STS.
	// +kubebuilder:validation:Enum=duckling;direct
	// +kubebuilder:default=duckling
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec.provider: cannot change; delete the warehouse and make a new one"
	Provider string `json:"provider,omitempty"`
	// Attempt counts provisionings: adding one begins a fresh one, with its own
	// time budget, from a failed or deprovisioned warehouse.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:default=1
	Attempt int64 `json:"attempt,omitempty"`
	// Deprovision releases everything and keeps this object as the record of it.
	Deprovision bool `json:"deprovision,omitempty"`

	MetadataStore MetadataStoreSpec `json:"metadataStore"`
	// +kubebuilder:default={type: "s3bucket"}
	DataStore DataStoreSpec `json:"dataStore,omitzero"`
	Iceberg   *IcebergSpec  `json:"iceberg,omitempty"`

	// Requests that brought the spec to where it is, so that a repeated one is
	// answered and not carried out again.
	// +kubebuilder:validation:MaxItems=8
	// +listType=map
	// +listMapKey=verb
	Requests []WarehouseRequest `json:"requests,omitempty"`
}

// MetadataStoreSpec is the PostgreSQL that is asked for.
//
// +kubebuilder:validation:XValidation:rule="(self.type == 'aurora') == has(self.aurora)",message="spec.metadataStore.aurora: goes with type aurora, which needs its minACU and maxACU"
// +kubebuilder:validation:XValidation:rule="(self.type == 'external') == has(self.external)",message="spec.metadataStore.external: goes with type external, which needs its endpoint, user and database"
// +kubebuilder:validation:XValidation:rule="self.type == 'class' || !has(self.class)",message="spec.metadataStore.class: goes with type class"
type MetadataStoreSpec struct {
	// +kubebuilder:validation:Enum=aurora;cnpg-shard;external;class
	Type     string                 `json:"type"`
	Aurora   *AuroraSpec            `json:"aurora,omitempty"`
	External *ExternalMetadataStore `json:"external,omitempty"`
	// Class is the DatabaseClass of type class.
	// +kubebuilder:validation:MaxLength=63
	Class string `json:"class,omitempty"`
	// PgBouncer asks for a pooler, which workers then use.
	PgBouncer bool `json:"pgbouncer,omitempty"`
}

// AuroraSpec bounds the size of an Aurora, in capacity units.
type AuroraSpec struct {
	MinACU Decimal `json:"minACU"`
	MaxACU Decimal `json:"maxACU"`
}

// Decimal is a number such as 0.5, as text, since floats do not survive every client.
// +kubebuilder:validation:Pattern=`^[0-9]{1,4}(\.[0-9]{1,3})?$`
type Decimal string

// ExternalMetadataStore is a PostgreSQL that somebody runs elsewhere.
type ExternalMetadataStore struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Endpoint string `json:"endpoint"`
	// PasswordAWSSecret names the secret in AWS that holds the password.
	// +kubebuilder:validation:MaxLength=512
	PasswordAWSSecret string `json:"passwordAwsSecret,omitempty"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	User string `json:"user"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Database string `json:"database"`
}

// DataStoreSpec is the bucket that is asked for.
//
// +kubebuilder:validation:XValidation:rule="self.type != 'external' || has(self.bucketName)",message="spec.dataStore.bucketName: type external needs the name of its bucket"
type DataStoreSpec struct {
	// +kubebuilder:validation:Enum=s3bucket;external
	// +kubebuilder:default=s3bucket
	Type string `json:"type,omitempty"`
	// BucketName; empty lets the provider choose.
	// +kubebuilder:validation:Pattern=`^[a-z0-9][-.a-z0-9]{1,61}[a-z0-9]$`
	BucketName string `json:"bucketName,omitempty"`
	// +kubebuilder:validation:MaxLength=63
	Region string `json:"region,omitempty"`
	// PathPrefix below which the warehouse's objects are.
	// +kubebuilder:validation:MaxLength=512
	PathPrefix string `json:"pathPrefix,omitempty"`
}

// IcebergSpec asks for an Iceberg catalog.
type IcebergSpec struct {
	Enabled bool `json:"enabled"`
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// WarehouseRequest is one request that changed the spec, by digests of its
// Idempotency-Key and body.
type WarehouseRequest struct {
	// +kubebuilder:validation:MaxLength=32
	Verb string `json:"verb"`
	// +kubebuilder:validation:MaxLength=64
	KeyDigest string `json:"keyDigest"`
	// +kubebuilder:validation:MaxLength=64
	BodyDigest string `json:"bodyDigest"`
}

// WarehouseStatus is what berth made and found. It is the one source of the
// warehouse's endpoints and names; it never holds a secret.
type WarehouseStatus struct {
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Attempt that the times below belong to.
	Attempt int64 `json:"attempt,omitempty"`
	// BegunAt is when this attempt was taken up, ProvisioningStartedAt when the
	// provider first held it. ReadyAt is when it first became usable; from then
	// on a passing fault does not take the state ready away. FailedAt is set
	// while the state is failed.
	BegunAt               *metav1.Time `json:"begunAt,omitempty"`
	ProvisioningStartedAt *metav1.Time `json:"provisioningStartedAt,omitempty"`
	ReadyAt               *metav1.Time `json:"readyAt,omitempty"`
	FailedAt              *metav1.Time `json:"failedAt,omitempty"`

	Composite     *CompositeReference  `json:"composite,omitempty"`
	MetadataStore *MetadataStoreStatus `json:"metadataStore,omitempty"`
	DataStore     *DataStoreStatus     `json:"dataStore,omitempty"`
	Identity      *IdentityStatus      `json:"identity,omitempty"`
	Iceberg       *IcebergStatus       `json:"iceberg,omitempty"`
}

// CompositeReference is the object that the provider works by. It is stored
// once, and never derived again.
type CompositeReference struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	UID        string `json:"uid,omitempty"`
}

// MetadataStoreStatus is how workers reach the metadata store.
type MetadataStoreStatus struct {
	Kind     string `json:"kind,omitempty"`
	Endpoint string `json:"endpoint"`
	Port     int32  `json:"port"`
	Database string `json:"database,omitempty"`
	Username string `json:"username,omitempty"`
	// Pooler is the host:port that workers use instead, if there is one.
	Pooler  string `json:"pooler,omitempty"`
	SSLMode string `json:"sslMode,omitempty"`
	// Credential is where the password is.
	Credential *SecretKeyReference `json:"credential,omitempty"`
}

// DataStoreStatus is the bucket, and how it is reached.
type DataStoreStatus struct {
	BucketName string `json:"bucketName"`
	Region     string `json:"region,omitempty"`
	PathPrefix string `json:"pathPrefix,omitempty"`
	// Endpoint of an S3 server other than AWS, as a URL.
	Endpoint string `json:"endpoint,omitempty"`
}

// IdentityStatus is the role that workers' credentials are of.
type IdentityStatus struct {
	RoleARN string `json:"roleARN"`
	// Policy, as JSON, narrows the role to this warehouse where it is shared.
	Policy string `json:"policy,omitempty"`
}

// IcebergStatus is the catalog, once there is one.
type IcebergStatus struct {
	TableBucketARN string `json:"tableBucketARN,omitempty"`
	Region         string `json:"region,omitempty"`
	Namespace      string `json:"namespace,omitempty"`
}

// Conditions gives the kernel the conditions to keep.
func (w *Warehouse) Conditions() *[]metav1.Condition { return &w.Status.Conditions }

// ObservedGeneration gives the kernel the generation to keep.
func (w *Warehouse) ObservedGeneration() *int64 { return &w.Status.ObservedGeneration }
