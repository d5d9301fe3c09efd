package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Conditions of a Migration, in the order its steps keep them.
const (
	TargetReady     = "TargetReady"     // the server that the database moves to runs
	PreflightPassed = "PreflightPassed" // nothing was found that the move would break
	SchemaCopied    = "SchemaCopied"    // the target has the tables and keys
	RowsCopied      = "RowsCopied"      // every table is copied and follows
	IndexesBuilt    = "IndexesBuilt"    // and so has all else, alike on both sides
	Switched        = "Switched"        // the clients are on the target
	Closed          = "Closed"          // no link is left; there is no way back
	Succeeded       = "Succeeded"       // root: all steps are done
	Withdrawn       = "Withdrawn"       // of a deleted Migration: nothing of it is left
)

// Migration moves the database of a claim, while it is used, to another major
// version, and back if asked. Deleting it before it is closed aborts it: the
// side that serves stays as it is.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=mig,categories=berth
// +kubebuilder:printcolumn:name="Claim",type=string,JSONPath=`.spec.claim`
// +kubebuilder:printcolumn:name="To",type=string,JSONPath=`.spec.to.version`
// +kubebuilder:printcolumn:name="Serving",type=string,JSONPath=`.status.serving`
// +kubebuilder:printcolumn:name="Copied",type=string,JSONPath=`.status.progress.text`
// +kubebuilder:printcolumn:name="Succeeded",type=string,JSONPath=`.status.conditions[?(@.type=="Succeeded")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Succeeded")].reason`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Succeeded")].message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Migration struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   MigrationSpec   `json:"spec"`
	Status MigrationStatus `json:"status,omitempty"`
}

// MigrationList is a list of migrations.
//
// +kubebuilder:object:root=true
type MigrationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Migration `json:"items"`
}

// Sides of a migration.
const (
	SideSource = "Source"
	SideTarget = "Target"
)

// MigrationSpec is the move asked for.
//
// +kubebuilder:validation:XValidation:rule="self.claim == oldSelf.claim && self.to == oldSelf.to",message="spec.claim, spec.to: a migration cannot change its mind; delete it and make a new one"
type MigrationSpec struct {
	// Claim names the DatabaseClaim in this namespace. It needs a server of its own.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Claim string `json:"claim"`
	// To says where the database goes.
	To MigrationTarget `json:"to"`
	// Approval Manual waits with the switch until spec.approved is true.
	// +kubebuilder:validation:Enum=Automatic;Manual
	// +kubebuilder:default=Automatic
	Approval string `json:"approval,omitempty"`
	Approved bool   `json:"approved,omitempty"`
	// At is the earliest time of the switch.
	At *metav1.Time `json:"at,omitempty"`
	// Serve is the side that clients belong on; Source, after the switch, goes back.
	// +kubebuilder:validation:Enum=Source;Target
	// +kubebuilder:default=Target
	Serve string `json:"serve,omitempty"`
	// Close ends the link to the side that does not serve, for good.
	Close bool `json:"close,omitempty"`
	// CloseAfter closes this long after the last switch; unset waits for spec.close.
	CloseAfter *metav1.Duration `json:"closeAfter,omitempty"`
	// WALLimitMB aborts the copy before it keeps more WAL than this on the source.
	// +kubebuilder:validation:Minimum=16
	// +kubebuilder:default=10240
	WALLimitMB int64 `json:"walLimitMB,omitempty"`
	// Accept are losses that preflight otherwise refuses.
	Accept MigrationAcceptance `json:"accept,omitempty"`
}

// MigrationTarget is a server of the claim's class.
type MigrationTarget struct {
	// Version is the PostgreSQL major version.
	// +kubebuilder:validation:Pattern=`^[0-9]{2}$`
	Version string `json:"version"`
}

// MigrationAcceptance is what the person who asks puts up with.
type MigrationAcceptance struct {
	// FullIdentity lets whole rows name the rows of tables without a key.
	FullIdentity bool `json:"fullIdentity,omitempty"`
	// LargeObjectsStay leaves large objects behind.
	LargeObjectsStay bool `json:"largeObjectsStay,omitempty"`
}

// MigrationStatus is what berth found and did.
type MigrationStatus struct {
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Name is that of all it makes on both servers.
	Name   string        `json:"name,omitempty"`
	Source *ServerStatus `json:"source,omitempty"`
	Target *ServerStatus `json:"target,omitempty"`
	// Serving is the side that has the clients.
	Serving string `json:"serving,omitempty"`
	// Findings of the last preflight.
	// +kubebuilder:validation:MaxItems=100
	Findings []MigrationFinding `json:"findings,omitempty"`
	Progress *MigrationProgress `json:"progress,omitempty"`
	// Abandoned says why all of it was taken back.
	Abandoned string `json:"abandoned,omitempty"`
	// Switches that happened, the last ten.
	// +kubebuilder:validation:MaxItems=10
	Switches []MigrationSwitch `json:"switches,omitempty"`
}

// MigrationFinding is one thing that a move would break.
type MigrationFinding struct {
	Severity string `json:"severity"` // Refuses or Warns
	Code     string `json:"code"`
	Object   string `json:"object"`
	Message  string `json:"message"`
}

// MigrationProgress is how far the copy is.
type MigrationProgress struct {
	Percent    int32  `json:"percent"`
	Bytes      int64  `json:"bytes"`
	BytesDone  int64  `json:"bytesDone"`
	Tables     int32  `json:"tables"`
	TablesDone int32  `json:"tablesDone"`
	Left       string `json:"left,omitempty"` // estimate
	Text       string `json:"text"`
}

// MigrationSwitch is one that happened.
type MigrationSwitch struct {
	At      metav1.Time `json:"at"`
	To      string      `json:"to"`      // Source or Target
	PauseMS int64       `json:"pauseMS"` // that clients waited at most
	Ended   int32       `json:"ended"`   // sessions past the proxies that were ended
}

// Conditions gives the kernel the conditions to keep.
func (m *Migration) Conditions() *[]metav1.Condition { return &m.Status.Conditions }

// ObservedGeneration gives the kernel the generation to keep.
func (m *Migration) ObservedGeneration() *int64 { return &m.Status.ObservedGeneration }
