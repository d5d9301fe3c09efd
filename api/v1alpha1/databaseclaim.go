package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Conditions of a DatabaseClaim, in the order its steps keep them.
const (
	Admitted        = "Admitted"        // the class allows what the spec asks for
	ServerReady     = "ServerReady"     // the server exists and berth may work on it
	DatabaseReady   = "DatabaseReady"   // database, owner, schemas, extensions are as asked
	CredentialReady = "CredentialReady" // the current login was tested, and none newer is due
	SecretPublished = "SecretPublished" // the Secret tells the current login
	NoStaleLogin    = "NoStaleLogin"    // no login but the current one is open
)

// Conditions of a DatabaseClaim or RoleClaim that is being deleted.
const (
	SecretWithdrawn = "SecretWithdrawn"
	Released        = "Released"
)

// DatabaseClaim is an application's database, with its login and Secret. The
// fields that db-controller's DatabaseClaim also has keep their names.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=dbc,categories=berth
// +kubebuilder:printcolumn:name="Class",type=string,JSONPath=`.spec.class`
// +kubebuilder:printcolumn:name="Database",type=string,JSONPath=`.status.database`
// +kubebuilder:printcolumn:name="Login",type=string,JSONPath=`.status.credential.login`
// +kubebuilder:printcolumn:name="Secret",type=string,JSONPath=`.spec.secretName`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
//
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name: must be at most 63 characters, because labels carry it"
type DatabaseClaim struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   DatabaseClaimSpec   `json:"spec"`
	Status DatabaseClaimStatus `json:"status,omitempty"`
}

// DatabaseClaimList is a list of claims.
//
// +kubebuilder:object:root=true
type DatabaseClaimList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []DatabaseClaim `json:"items"`
}

// DatabaseClaimSpec is what an application asks for.
//
// +kubebuilder:validation:XValidation:rule="has(self.databaseName) == has(oldSelf.databaseName) && (!has(self.databaseName) || self.databaseName == oldSelf.databaseName)",message="spec.databaseName: a claim's database cannot be renamed; make a new claim"
// +kubebuilder:validation:XValidation:rule="has(self.userName) == has(oldSelf.userName) && (!has(self.userName) || self.userName == oldSelf.userName)",message="spec.userName: a claim's role cannot be renamed; make a RoleClaim for another login"
// +kubebuilder:validation:XValidation:rule="!has(self.maxStorageGB) || !has(self.minStorageGB) || self.maxStorageGB > self.minStorageGB",message="spec.maxStorageGB: must be greater than spec.minStorageGB"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.maxStorageGB) || (has(self.maxStorageGB) && self.maxStorageGB >= oldSelf.maxStorageGB)",message="spec.maxStorageGB: storage cannot shrink; keep it at or above its earlier value"
// +kubebuilder:validation:XValidation:rule="!(has(self.useExistingSource) && self.useExistingSource) || has(self.sourceDataFrom)",message="spec.sourceDataFrom: useExistingSource needs the database to use; set spec.sourceDataFrom.database.secretRef"
type DatabaseClaimSpec struct {
	// Class names the DatabaseClass.
	// +kubebuilder:default=default
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="spec.class: a claim cannot change its class yet; make a new claim"
	Class string `json:"class,omitempty"`
	// DatabaseName on the server; empty lets berth choose from namespace and name.
	// With useExistingSource the source's own database is used.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="size(bytes(self)) <= 63",message="spec.databaseName: must be at most 63 bytes in UTF-8, the limit of PostgreSQL"
	// +kubebuilder:validation:XValidation:rule="!self.matches('[\\\\x00-\\\\x1f\\\\x7f]')",message="spec.databaseName: must not contain control characters"
	// +kubebuilder:validation:XValidation:rule="!(self in ['postgres','template0','template1'])",message="spec.databaseName: postgres, template0 and template1 belong to the server; choose another name"
	DatabaseName string `json:"databaseName,omitempty"`
	// UserName is the role that owns the database; the logins are it with _a
	// and _b. Empty lets berth choose.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=61
	// +kubebuilder:validation:XValidation:rule="size(bytes(self)) <= 61",message="spec.userName: must be at most 61 bytes in UTF-8: PostgreSQL allows 63 and the logins add _a or _b"
	// +kubebuilder:validation:XValidation:rule="!self.matches('[\\\\x00-\\\\x1f\\\\x7f]')",message="spec.userName: must not contain control characters"
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('pg_') && !(self in ['public','none','postgres'])",message="spec.userName: names starting with pg_, and public, none, postgres, belong to PostgreSQL; choose another name"
	UserName string `json:"userName,omitempty"`
	// SecretName is the Secret to write in the claim's namespace; empty is the claim's own name.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	SecretName string `json:"secretName,omitempty"`
	// SecretTemplate adds keys to the Secret. Values are Go templates over
	// .Host .Port .Database .Username .Password .SSLMode .CA .URI .DSN, with
	// the functions urlquery and b64enc.
	// +kubebuilder:validation:MaxProperties=32
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.matches('^[-._a-zA-Z0-9]{1,253}$'))",message="spec.secretTemplate: keys may hold letters, digits, '-', '_' and '.'"
	// +kubebuilder:validation:XValidation:rule="self.all(k, !(k in ['dsn.txt','uri_dsn.txt','hostname','port','database','username','password','sslmode']))",message="spec.secretTemplate: dsn.txt, uri_dsn.txt, hostname, port, database, username, password and sslmode are always written; choose other keys"
	SecretTemplate map[string]Template `json:"secretTemplate,omitempty"`

	// DBVersion is the PostgreSQL version wanted, such as "17" or "17.4".
	// +kubebuilder:validation:Pattern=`^([0-9]{2}(\.[0-9]{1,2})?)?$`
	DBVersion string `json:"dbVersion,omitempty"`
	// Schemas to have in the database, owned by its role.
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.all(s, size(bytes(s)) <= 63 && !s.startsWith('pg_') && s != 'information_schema' && !s.matches('[\\\\x00-\\\\x1f\\\\x7f]'))",message="spec.schemas: schema names have 1 to 63 bytes, no control characters, and are not PostgreSQL's own (pg_*, information_schema)"
	// +listType=set
	Schemas []string `json:"schemas,omitempty"`
	// Extensions to have in the database; the class says which are allowed.
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	// +listType=set
	Extensions []string `json:"extensions,omitempty"`

	// UseExistingSource manages logins on the database of sourceDataFrom and
	// makes no database.
	UseExistingSource *bool           `json:"useExistingSource,omitempty"`
	SourceDataFrom    *SourceDataFrom `json:"sourceDataFrom,omitempty"`
	// AdoptExisting takes over a database of this name that berth did not
	// make, and gives all in it to the claim's role.
	AdoptExisting bool `json:"adoptExisting,omitempty"`

	EnableReplicationRole *bool `json:"enableReplicationRole,omitempty"`
	EnableSuperUser       *bool `json:"enableSuperUser,omitempty"`

	// Type of server; berth treats both alike.
	// +kubebuilder:validation:Enum=postgres;aurora-postgresql
	Type string `json:"type,omitempty"`
	// Shape, storage, backup policy, restore and maintenance window go to the
	// backend; one that cannot honour them refuses the claim.
	// +kubebuilder:validation:MaxLength=128
	Shape string `json:"shape,omitempty"`
	// +kubebuilder:validation:Minimum=0
	MinStorageGB int32 `json:"minStorageGB,omitempty"`
	// +kubebuilder:validation:Minimum=0
	MaxStorageGB int64 `json:"maxStorageGB,omitempty"`
	// +kubebuilder:validation:Enum=Bronze;Silver;Gold;Platinum
	BackupPolicy string `json:"backupPolicy,omitempty"`
	// +kubebuilder:validation:MaxLength=255
	RestoreFrom string `json:"restoreFrom,omitempty"`
	// +kubebuilder:validation:MaxLength=64
	PreferredMaintenanceWindow string `json:"preferredMaintenanceWindow,omitempty"`
	// +kubebuilder:validation:MaxItems=64
	// +nullable
	Tags []Tag `json:"tags,omitempty"`
	// AppID names the application for people; it changes nothing.
	// +kubebuilder:validation:MaxLength=128
	AppID string `json:"appId,omitempty"`
	// DSNName of db-controller: only its default is accepted.
	// +kubebuilder:validation:XValidation:rule="self == 'dsn.txt'",message="spec.dsnName: the key is always dsn.txt; add other keys by spec.secretTemplate"
	DSNName string `json:"dsnName,omitempty"`

	Rotation RotationSpec `json:"rotation,omitempty"`
	// DeletionPolicy Delete drops the database after the class's undo window,
	// Orphan keeps it; empty follows the class.
	// +kubebuilder:validation:Enum=Delete;delete;Orphan;orphan
	DeletionPolicy string `json:"deletionPolicy,omitempty"`
	// DeletionProtection refuses to delete the claim while it is true.
	DeletionProtection bool `json:"deletionProtection,omitempty"`
	// AllowedNamespaces may hold RoleClaims on this database beside the claim's own.
	// +kubebuilder:validation:MaxItems=256
	// +listType=set
	AllowedNamespaces []string `json:"allowedNamespaces,omitempty"`
}

// Template is a Go template for one key of the Secret.
// +kubebuilder:validation:MaxLength=4096
type Template string

// Tag is a name and value that a backend puts on what it makes.
type Tag struct {
	// +kubebuilder:validation:MaxLength=128
	Key string `json:"key"`
	// +kubebuilder:validation:MaxLength=256
	Value string `json:"value"`
}

// SourceDataFrom names a database that somebody runs elsewhere.
//
// +kubebuilder:validation:XValidation:rule="has(self.database)",message="spec.sourceDataFrom.database: name the source database by dsn, secretRef or both"
type SourceDataFrom struct {
	// +kubebuilder:validation:Enum=database
	Type     string          `json:"type"`
	Database *SourceDatabase `json:"database,omitempty"`
}

// SourceDatabase is a DSN without a password, a Secret, or both: the Secret's
// uri_dsn.txt wins, else its password completes the DSN.
//
// +kubebuilder:validation:XValidation:rule="has(self.secretRef)",message="spec.sourceDataFrom.database.secretRef: name a Secret of this namespace with uri_dsn.txt, or with password beside spec.sourceDataFrom.database.dsn"
type SourceDatabase struct {
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="!self.matches('^[a-zA-Z]+://[^@]*:[^@]+@') && !self.matches('password[[:space:]]*=')",message="spec.sourceDataFrom.database.dsn: must not hold a password, since anyone who reads the claim would see it; put it in the Secret's key password"
	DSN       string           `json:"dsn,omitempty"`
	SecretRef *SecretReference `json:"secretRef,omitempty"`
}

// DatabaseClaimStatus is what berth made and found. Names are stored once and
// never derived again.
type DatabaseClaimStatus struct {
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	Server     *ServerStatus     `json:"server,omitempty"`
	Database   string            `json:"database,omitempty"`
	Owner      string            `json:"owner,omitempty"`
	Credential *CredentialStatus `json:"credential,omitempty"`
	// Consumers that report which login they use; the previous login stays open
	// while one of them uses it.
	Consumers *Consumers `json:"consumers,omitempty"`
}

// Conditions gives the kernel the conditions to keep.
func (c *DatabaseClaim) Conditions() *[]metav1.Condition { return &c.Status.Conditions }

// ObservedGeneration gives the kernel the generation to keep.
func (c *DatabaseClaim) ObservedGeneration() *int64 { return &c.Status.ObservedGeneration }
