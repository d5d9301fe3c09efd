// Package v1alpha1 is berth's contract: its kinds, their fields and conditions.
//
// It holds no behaviour. What the API server can check is said here as
// validation markers, with messages that name the field, the rule and what
// would be accepted.
//
// +kubebuilder:object:generate=true
// +groupName=berth.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the API group and version of every kind of berth.
var GroupVersion = schema.GroupVersion{Group: "berth.dev", Version: "v1alpha1"}

// AddToScheme makes the kinds of berth known to scheme.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion,
		&DatabaseClass{}, &DatabaseClassList{},
		&DatabaseClaim{}, &DatabaseClaimList{},
		&RoleClaim{}, &RoleClaimList{},
		&Org{}, &OrgList{},
		&Warehouse{}, &WarehouseList{},
		&Migration{}, &MigrationList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}

// Ready is the root condition of every living kind: all its steps hold.
const Ready = "Ready"

// SecretReference names a Secret. An empty namespace is the object's own.
type SecretReference struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
}

// ServerStatus says which server an object lives on. It is written once the
// server is found, and is what deletion trusts when the class is gone.
type ServerStatus struct {
	Backend string `json:"backend"`
	ID      string `json:"id"`
	Host    string `json:"host,omitempty"`
	Port    int32  `json:"port,omitempty"`
	Version string `json:"version,omitempty"`
}

// CredentialStatus says which login is current. Versions count up from 1;
// odd ones use the login ending in _a, even ones the login ending in _b.
type CredentialStatus struct {
	Login       string      `json:"login"`
	Version     int64       `json:"version"`
	PublishedAt metav1.Time `json:"publishedAt"`
	// RotatesAt is when the next version is due.
	RotatesAt metav1.Time `json:"rotatesAt"`
	// Previous is the login that is still open to consumers which have not
	// seen the current version yet.
	Previous string `json:"previous,omitempty"`
	// PreviousVersion is the version that Previous belongs to.
	PreviousVersion int64 `json:"previousVersion,omitempty"`
}

// RotationSpec asks for rotations by version, so that a request is never
// carried out twice and never depends on a clock.
type RotationSpec struct {
	// MinVersion asks for a credential of at least this version.
	// `berth rotate` sets it to the current version plus one.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000000
	MinVersion int64 `json:"minVersion,omitempty"`
	// RevokedThrough takes all logins of this and earlier versions away at
	// once and ends their sessions. `berth revoke` sets it to the current version.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000000
	RevokedThrough int64 `json:"revokedThrough,omitempty"`
}

// Consumers are the proxies of a credential that report which login they use.
type Consumers struct {
	// Proxies that report.
	Proxies int32 `json:"proxies"`
	// Current are those that use the current login alone.
	Current int32 `json:"current"`
	// Waiting are pods that still use an earlier login, at most ten of them.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=10
	Waiting []string `json:"waiting,omitempty"`
	// Troubled are pods whose proxy told of trouble in the last ten minutes and
	// has not moved on since, at most ten of them. They serve with what they had.
	// +listType=map
	// +listMapKey=pod
	// +kubebuilder:validation:MaxItems=10
	Troubled []Trouble `json:"troubled,omitempty"`
	// Sidecars are what the pods of those proxies have of berth.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=20
	Sidecars []Sidecars `json:"sidecars,omitempty"`
}

// Trouble is what a pod's proxy says it cannot do.
type Trouble struct {
	Pod     string `json:"pod"`
	Message string `json:"message"`
}

// Sidecars are the pods with one revision of a sidecar.
type Sidecars struct {
	// Kind is dbproxy or dsnexec.
	Kind string `json:"kind"`
	// Revision is the image, or the version of an agent that was not injected.
	Revision string `json:"revision"`
	Pods     int32  `json:"pods"`
}
