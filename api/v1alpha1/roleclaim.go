package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Conditions that only a RoleClaim has; the others are a DatabaseClaim's.
const (
	SourceReady = "SourceReady" // the source claim is Ready and lets this namespace in
	RoleReady   = "RoleReady"   // the role has exactly the grants that the spec asks for
)

// RoleClaim is an extra login on a claim's database, with its own Secret, or,
// without a schema role map, a copy of the claim's Secret.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=rolec,categories=berth
// +kubebuilder:printcolumn:name="Claim",type=string,JSONPath=`.spec.sourceDatabaseClaim.name`
// +kubebuilder:printcolumn:name="Login",type=string,JSONPath=`.status.credential.login`
// +kubebuilder:printcolumn:name="Secret",type=string,JSONPath=`.spec.secretName`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
//
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name: must be at most 63 characters, because labels carry it"
type RoleClaim struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   RoleClaimSpec   `json:"spec"`
	Status RoleClaimStatus `json:"status,omitempty"`
}

// RoleClaimList is a list of role claims.
//
// +kubebuilder:object:root=true
type RoleClaimList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []RoleClaim `json:"items"`
}

// RoleClaimSpec is the login asked for.
//
// +kubebuilder:validation:XValidation:rule="has(self.userName) == has(oldSelf.userName) && (!has(self.userName) || self.userName == oldSelf.userName)",message="spec.userName: a role cannot be renamed; make a new RoleClaim"
// +kubebuilder:validation:XValidation:rule="has(self.schemarolemap) == has(oldSelf.schemarolemap)",message="spec.schemarolemap: a role claim cannot turn from a copy into a login or back; make a new RoleClaim"
// +kubebuilder:validation:XValidation:rule="has(self.schemarolemap) || !has(self.userName)",message="spec.userName: a role claim without spec.schemarolemap copies the claim's own login; add spec.schemarolemap or remove spec.userName"
type RoleClaimSpec struct {
	// Class, when set, must be the source claim's.
	// +kubebuilder:validation:MaxLength=63
	Class string `json:"class,omitempty"`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec.sourceDatabaseClaim: cannot change; make a new RoleClaim"
	SourceDatabaseClaim ClaimReference `json:"sourceDatabaseClaim"`
	// SecretName is the Secret to write in this namespace; empty is the role claim's own name.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	SecretName string `json:"secretName,omitempty"`
	// SchemaRoleMap says what the login may do, schema by schema. Without it
	// the Secret is a copy of the claim's.
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=64
	// +kubebuilder:validation:XValidation:rule="self.all(k, size(k) > 0 && size(bytes(k)) <= 63 && !k.startsWith('pg_') && k != 'information_schema')",message="spec.schemarolemap: schema names have 1 to 63 bytes and are not PostgreSQL's own (pg_*, information_schema)"
	SchemaRoleMap map[string]SchemaRole `json:"schemarolemap,omitempty"`
	// UserName is the role behind the logins, which add _a and _b; empty lets berth choose.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=61
	// +kubebuilder:validation:XValidation:rule="size(bytes(self)) <= 61",message="spec.userName: must be at most 61 bytes in UTF-8: PostgreSQL allows 63 and the logins add _a or _b"
	// +kubebuilder:validation:XValidation:rule="!self.matches('[\\\\x00-\\\\x1f\\\\x7f]')",message="spec.userName: must not contain control characters"
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('pg_') && !(self in ['public','none','postgres'])",message="spec.userName: names starting with pg_, and public, none, postgres, belong to PostgreSQL; choose another name"
	UserName string `json:"userName,omitempty"`

	Rotation RotationSpec `json:"rotation,omitempty"`
}

// SchemaRole is what a login may do in one schema: readonly reads, regular
// also writes rows and makes tables, admin does anything in the schema.
// +kubebuilder:validation:Enum=readonly;regular;admin
type SchemaRole string

// The schema roles.
const (
	ReadOnly SchemaRole = "readonly"
	Regular  SchemaRole = "regular"
	Admin    SchemaRole = "admin"
)

// ClaimReference names a DatabaseClaim. An empty namespace is the object's own.
type ClaimReference struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// RoleClaimStatus is what berth made and found.
type RoleClaimStatus struct {
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	Server     *ServerStatus     `json:"server,omitempty"`
	Database   string            `json:"database,omitempty"`
	Owner      string            `json:"owner,omitempty"`
	Credential *CredentialStatus `json:"credential,omitempty"`
	// Consumers that report which login they use. Those of a copy are counted on
	// the claim whose login it is.
	Consumers *Consumers `json:"consumers,omitempty"`
}

// Conditions gives the kernel the conditions to keep.
func (c *RoleClaim) Conditions() *[]metav1.Condition { return &c.Status.Conditions }

// ObservedGeneration gives the kernel the generation to keep.
func (c *RoleClaim) ObservedGeneration() *int64 { return &c.Status.ObservedGeneration }
