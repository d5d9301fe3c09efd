package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Conditions of a DatabaseClass. Unused is True once, while deleting, when no
// claim of the class is left.
const (
	ServerReachable = "ServerReachable"
	Unused          = "Unused"
)

// DatabaseClass is what the platform offers: a backend, limits, defaults and
// the rotation policy. Like a StorageClass, it is chosen by name.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=dbclass,categories=berth
// +kubebuilder:printcolumn:name="Backend",type=string,JSONPath=`.spec.backend`
// +kubebuilder:printcolumn:name="Dedicated",type=boolean,JSONPath=`.spec.dedicated`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type DatabaseClass struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   DatabaseClassSpec   `json:"spec"`
	Status DatabaseClassStatus `json:"status,omitempty"`
}

// DatabaseClassList is a list of classes.
//
// +kubebuilder:object:root=true
type DatabaseClassList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []DatabaseClass `json:"items"`
}

// DatabaseClassSpec is the policy of a class.
//
// +kubebuilder:validation:XValidation:rule="self.backend != 'existing' || has(self.server)",message="spec.server: backend existing needs the Secret of its administrator; set spec.server.secretRef.name and .namespace"
// +kubebuilder:validation:XValidation:rule="self.backend == 'existing' || !has(self.server)",message="spec.server: only backend existing connects to a server by a Secret; remove spec.server or set spec.backend: existing"
// +kubebuilder:validation:XValidation:rule="self.backend != 'existing' || !has(self.dedicated) || !self.dedicated",message="spec.dedicated: backend existing has one server for all its claims; remove spec.dedicated or choose a backend that makes servers"
// +kubebuilder:validation:XValidation:rule="self.backend != 'existing' || !has(self.shape)",message="spec.shape: backend existing makes no servers; remove spec.shape or choose a backend that makes servers"
// +kubebuilder:validation:XValidation:rule="self.backend != 'existing' || !has(self.minStorageGB)",message="spec.minStorageGB: backend existing makes no servers; remove spec.minStorageGB or choose a backend that makes servers"
// +kubebuilder:validation:XValidation:rule="self.backend == oldSelf.backend",message="spec.backend: the backend of a class cannot change; make a new class"
type DatabaseClassSpec struct {
	// Backend provides the server: existing is one that somebody runs, local
	// is PostgreSQL processes on the controller's own machine.
	// +kubebuilder:validation:Enum=existing;local
	Backend string `json:"backend"`
	// Server names the Secret of the existing server's administrator.
	Server *ServerAccess `json:"server,omitempty"`
	// Dedicated gives every claim a server of its own.
	Dedicated bool `json:"dedicated,omitempty"`
	// DBVersion is the PostgreSQL version of servers that berth makes, such as "17".
	// +kubebuilder:validation:Pattern=`^[0-9]{2}(\.[0-9]{1,2})?$`
	DBVersion string `json:"dbVersion,omitempty"`
	// Shape of servers that berth makes, in the backend's words, unless a claim
	// asks for another.
	// +kubebuilder:validation:MaxLength=128
	Shape string `json:"shape,omitempty"`
	// MinStorageGB of servers that berth makes, unless a claim asks for another.
	// +kubebuilder:validation:Minimum=0
	MinStorageGB int32 `json:"minStorageGB,omitempty"`
	// SSLMode is what applications are told to use.
	// +kubebuilder:validation:Enum=disable;prefer;require;verify-ca;verify-full
	// +kubebuilder:default=verify-full
	SSLMode string `json:"sslMode,omitempty"`
	// AllowedNamespaces may use this class; empty means all.
	// +kubebuilder:validation:MaxItems=256
	// +listType=set
	AllowedNamespaces []string `json:"allowedNamespaces,omitempty"`

	// +kubebuilder:default={}
	Allow Allowances `json:"allow,omitzero"`
	// +kubebuilder:default={}
	Password PasswordPolicy `json:"password,omitzero"`
	// +kubebuilder:default={period: "60m", floor: "60m"}
	Rotation RotationPolicy `json:"rotation,omitzero"`
	// +kubebuilder:default={}
	Deletion DeletionPolicy `json:"deletion,omitzero"`

	// DriftInterval is how often a Ready claim's database is looked at again.
	// +kubebuilder:default="30m"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s')",message="spec.driftInterval: must be at least 1s, such as 30m"
	DriftInterval metav1.Duration `json:"driftInterval,omitzero"`
}

// ServerAccess says how berth reaches an existing server. The Secret holds
// uri_dsn.txt, or hostname (or endpoint), port, username, password and
// sslmode; and ca.crt when the server's certificate needs its own authority.
type ServerAccess struct {
	// +kubebuilder:validation:XValidation:rule="has(self.__namespace__) && size(self.__namespace__) > 0",message="spec.server.secretRef.namespace: a class belongs to no namespace; name the namespace of its Secret"
	SecretRef SecretReference `json:"secretRef"`
}

// Allowances are what claims of the class may ask for beyond a plain database.
type Allowances struct {
	Superuser   bool `json:"superuser,omitempty"`
	Replication bool `json:"replication,omitempty"`
	// Adoption lets a claim take over a database that berth did not make.
	Adoption bool `json:"adoption,omitempty"`
	// ExistingSource lets a claim bring a server of its own in spec.sourceDataFrom.
	ExistingSource bool `json:"existingSource,omitempty"`
	// Extensions that claims may ask for; "*" is all.
	// +kubebuilder:validation:MaxItems=256
	// +listType=set
	// +kubebuilder:default={"btree_gin","btree_gist","citext","cube","fuzzystrmatch","hstore","intarray","ltree","pg_trgm","pgcrypto","seg","tablefunc","unaccent","uuid-ossp"}
	Extensions []string `json:"extensions,omitempty"`
}

// PasswordPolicy is how passwords are made.
type PasswordPolicy struct {
	// Length in characters.
	// +kubebuilder:validation:Minimum=15
	// +kubebuilder:validation:Maximum=99
	// +kubebuilder:default=32
	Length int32 `json:"length,omitempty"`
	// Complexity enabled mixes letters, digits and symbols in every password;
	// disabled uses letters and digits.
	// +kubebuilder:validation:Enum=enabled;disabled
	// +kubebuilder:default=disabled
	Complexity string `json:"complexity,omitempty"`
}

// RotationPolicy is when credentials are replaced.
//
// +kubebuilder:validation:XValidation:rule="duration(self.period) >= duration(self.floor)",message="spec.rotation.period: must be at least spec.rotation.floor (60m unless the class lowers it); use a Go duration such as 60m"
type RotationPolicy struct {
	// Period between rotations of one credential, 60m to 1440m. Each claim
	// rotates up to a tenth earlier, so that claims do not rotate together.
	// +kubebuilder:default="60m"
	// +kubebuilder:validation:XValidation:rule="duration(self) <= duration('1440m')",message="spec.rotation.period: must be at most 1440m; use a Go duration such as 60m"
	Period metav1.Duration `json:"period,omitzero"`
	// Floor is the shortest period this class accepts. Lower it with care:
	// consumers must see a new Secret well within it.
	// +kubebuilder:default="60m"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s')",message="spec.rotation.floor: must be at least 1s; use a Go duration such as 60m"
	Floor metav1.Duration `json:"floor,omitzero"`
	// Propagation is how long a consumer may take to see a new Secret. The
	// previous login stays open at least that long.
	// +kubebuilder:default="2m"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('24h')",message="spec.rotation.propagation: must be between 0s and 24h; use a Go duration such as 2m"
	Propagation *metav1.Duration `json:"propagation,omitempty"`
}

// DeletionPolicy is what becomes of a database whose claim is deleted.
type DeletionPolicy struct {
	// Reclaim Delete drops the database after the undo window; Retain keeps it.
	// A claim's deletionPolicy overrides it.
	// +kubebuilder:validation:Enum=Delete;Retain
	// +kubebuilder:default=Delete
	Reclaim string `json:"reclaim,omitempty"`
	// UndoWindow is how long a deleted claim can be applied again to get its
	// database back.
	// +kubebuilder:default="24h"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s')",message="spec.deletion.undoWindow: must not be negative; use a Go duration such as 24h"
	UndoWindow *metav1.Duration `json:"undoWindow,omitempty"`
}

// Retain keeps the database of a deleted claim for ever.
const Retain = "Retain"

// Window is the undo window; a class that the API server did not default has a day.
func (p DeletionPolicy) Window() time.Duration {
	if p.UndoWindow == nil {
		return 24 * time.Hour
	}
	return p.UndoWindow.Duration
}

// Hold is the propagation time; a class that the API server did not default has 2 minutes.
func (p RotationPolicy) Hold() time.Duration {
	if p.Propagation == nil {
		return 2 * time.Minute
	}
	return p.Propagation.Duration
}

// DatabaseClassStatus is what berth found.
type DatabaseClassStatus struct {
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Conditions gives the kernel the conditions to keep.
func (c *DatabaseClass) Conditions() *[]metav1.Condition { return &c.Status.Conditions }

// ObservedGeneration gives the kernel the generation to keep.
func (c *DatabaseClass) ObservedGeneration() *int64 { return &c.Status.ObservedGeneration }
