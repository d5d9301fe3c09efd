// Package naming makes every derived name and label, within the limits of
// PostgreSQL (63 bytes), Kubernetes labels (63) and object names (253).
//
// A name is derived once, when its object is first reconciled, and stored in
// the status from then on; nothing here is called to find an existing thing.
package naming

import (
	"crypto/sha256"
	"encoding/hex"
	"unicode/utf8"
)

// Limits of what the names go into.
const (
	IdentifierLimit = 63 // bytes of a PostgreSQL identifier: NAMEDATALEN - 1
	OwnerLimit      = 61 // an owner role leaves room for _a and _b
	ServerLimit     = 50 // CloudNativePG refuses longer cluster names
)

// Labels that berth puts on what it writes.
const (
	ManagedByLabel = "app.kubernetes.io/managed-by"
	ManagedBy      = "berth"
	KindLabel      = "berth.dev/kind"
	OwnerLabel     = "berth.dev/owner"
	ClaimKind      = "databaseclaim" // values of KindLabel
	RoleKind       = "roleclaim"
	Finalizer      = "berth.dev/release"
)

// Owner is the default name of a claim's database and owner role. Namespaces
// and object names hold no underscore, so two claims never share one.
func Owner(namespace, name string) string {
	return fit(namespace+"_"+name, OwnerLimit, "_")
}

// RoleOwner is the default name of a role claim's role. The two underscores
// keep it apart from every claim's.
func RoleOwner(namespace, name string) string {
	return fit(namespace+"__"+name, OwnerLimit, "__")
}

// Login is the login that version of a credential uses: _a when odd, _b when even.
func Login(owner string, version int64) string {
	if version%2 == 1 {
		return owner + "_a"
	}
	return owner + "_b"
}

// Logins are both logins of an owner role.
func Logins(owner string) []string { return []string{owner + "_a", owner + "_b"} }

// Journal is the Secret that holds a password before it is used.
func Journal(kind, name string) string { return fit("berth-journal."+kind+"."+name, 253, "-") }

// SharedServer is the id of the one server of a class.
func SharedServer(class string) string { return fit("class-"+class, ServerLimit, "-") }

// DedicatedServer is the id of a claim's own server.
func DedicatedServer(namespace, name string) string {
	return cut("claim-"+namespace+"-"+name, ServerLimit-9) + "-" + digest(namespace+"/"+name)
}

// Labels mark an object that berth wrote for the object of kind and name.
func Labels(kind, name string) map[string]string {
	return map[string]string{ManagedByLabel: ManagedBy, KindLabel: kind, OwnerLabel: name}
}

// fit shortens name to limit bytes and keeps it unique by a digest.
func fit(name string, limit int, separator string) string {
	if len(name) <= limit {
		return name
	}
	return cut(name, limit-9) + separator + digest(name)
}

func cut(name string, limit int) string {
	if len(name) <= limit {
		return name
	}
	for !utf8.RuneStart(name[limit]) {
		limit--
	}
	return name[:limit]
}

func digest(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:4])
}
