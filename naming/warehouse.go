package naming

import "strings"

// Kinds and names around an organisation's warehouse.
const (
	WarehouseKind = "warehouse" // value of KindLabel
	OrgKind       = "org"
	// WarehouseNamespace holds the Secrets of organisations, unless the
	// controller is told another.
	WarehouseNamespace = "berth-warehouses"
)

// Composite is the name of an org's composite: its id, which is a DNS label.
func Composite(org string) string { return org }

// OrgUsers is the Secret with the password hashes of an org's users.
func OrgUsers(org string) string { return "org-" + org + "-users" }

// Metadata is the Secret, and the claim, of an org's metadata store.
func Metadata(org string) string { return org + "-metadata" }

// bucketLimit is S3's own, for one label of a host name.
const bucketLimit = 63

// Bucket names an org's bucket. A UUID loses its hyphens, which keeps it apart
// from every other id, since those have at most 35 characters or hyphens left.
func Bucket(prefix, org, suffix string) string {
	if len(org) == len("xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx") {
		org = strings.ReplaceAll(org, "-", "")
	}
	return fit(strings.Trim(prefix+"-"+org+"-"+suffix, "-"), bucketLimit, "-")
}

// OwnedBy reports whether a Secret of this name may hold what belongs to org:
// berth's own names for it, or one that begins with it, bare or as a duckling's.
func OwnedBy(org, secret string) bool {
	secret = strings.TrimPrefix(secret, "duckling-")
	return secret == org || strings.HasPrefix(secret, org+"-") || secret == OrgUsers(org)
}
