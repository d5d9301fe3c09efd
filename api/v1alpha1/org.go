package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Conditions of an Org, in the order its steps keep them. Emptied is True once,
// while deleting, when its warehouse is gone.
const (
	NameHeld   = "NameHeld"   // no older org has its database name
	UsersReady = "UsersReady" // each user's Secret holds a password's hash
	Emptied    = "Emptied"
)

// Org is a customer organisation: the users that may log in to its warehouse,
// and what they may use. Its name is the organisation's id.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=berth
// +kubebuilder:printcolumn:name="Database",type=string,JSONPath=`.spec.databaseName`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
//
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,33}[a-z0-9])?$') || self.metadata.name.matches('^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$')",message="metadata.name: an org id is a DNS-1123 label of at most 35 characters, or a UUID in lower case"
type Org struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   OrgSpec   `json:"spec,omitempty"`
	Status OrgStatus `json:"status,omitempty"`
}

// OrgList is a list of organisations.
//
// +kubebuilder:object:root=true
type OrgList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Org `json:"items"`
}

// OrgSpec is who may use an organisation's warehouse, and how much of it.
type OrgSpec struct {
	// DatabaseName is what users connect to; empty is the org's id. Of two orgs
	// with one name the older one has it.
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-_a-z0-9]{0,61}[a-z0-9])?$`
	DatabaseName string `json:"databaseName,omitempty"`
	// MaxWorkers that may serve the org at once; 0 is the platform's own limit.
	// +kubebuilder:validation:Minimum=0
	MaxWorkers int32 `json:"maxWorkers,omitempty"`
	// MemoryBudget of all its workers, such as 16GB; empty is the platform's own.
	// +kubebuilder:validation:MaxLength=32
	MemoryBudget string `json:"memoryBudget,omitempty"`
	// IdleTimeoutSeconds after which an unused worker ends; 0 is the platform's own.
	// +kubebuilder:validation:Minimum=0
	IdleTimeoutSeconds int32 `json:"idleTimeoutSeconds,omitempty"`
	// Users that may log in.
	// +kubebuilder:validation:MaxItems=1000
	// +listType=map
	// +listMapKey=name
	Users []OrgUser `json:"users,omitempty"`
}

// OrgUser is a login. Its password is known to nobody: a Secret holds its hash.
type OrgUser struct {
	// +kubebuilder:validation:Pattern=`^[a-z_][-a-z0-9_.]{0,62}$`
	Name string `json:"name"`
	// PasswordSecret names the Secret, in the namespace of the warehouses, and
	// the key with the bcrypt hash.
	PasswordSecret SecretKeyReference `json:"passwordSecret"`
}

// SecretKeyReference names one value of a Secret. An empty namespace is that of
// the warehouses.
type SecretKeyReference struct {
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key"`
}

// OrgStatus is what berth found.
type OrgStatus struct {
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Conditions gives the kernel the conditions to keep.
func (o *Org) Conditions() *[]metav1.Condition { return &o.Status.Conditions }

// ObservedGeneration gives the kernel the generation to keep.
func (o *Org) ObservedGeneration() *int64 { return &o.Status.ObservedGeneration }

// Database is the name that users connect to.
func (o *Org) Database() string {
	if o.Spec.DatabaseName == "" {
		return o.Name
	}
	return o.Spec.DatabaseName
}
