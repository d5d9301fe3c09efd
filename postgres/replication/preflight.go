package replication

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Severities of a Finding.
const (
	Refuses = "Refuses" // the migration cannot go on until it is settled
	Warns   = "Warns"   // it can; this will not be as before, or needs a look
)

// Finding is one thing that a migration would break, or that would break it.
type Finding struct {
	Severity, Code, Object, Message string
}

// Survey is everything that DecidePreflight rests on.
type Survey struct {
	From, To   Server
	Database   Contents
	Taken      bool     // the target has a database of this name
	Available  []string // extensions of the target
	Collations []string // libc locales that the target knows
	ToRoles    []Role   // of the names that would be made
	Tablespace []string // of the target
}

// Server is what one server says of itself.
type Server struct {
	Version                int
	Superuser              bool
	WALLevel               string
	SlotsFree, SendersFree int
	LogicalWorkers         int
	Processes              int
	KeepSize               int64 // max_slot_wal_keep_size in MB; -1 is no limit
	Verified               bool  // berth demands TLS that is verified
	LinkVerifiable         bool  // the other server was told the authority's file
}

// Contents of the source's database.
type Contents struct {
	Name, Owner, Provider, Collate string
	Limit                          int
	Bytes                          int64
	Roles                          []Role
	NoIdentity                     []Identity
	Full                           []string // tables whose identity is the whole row
	Unlogged                       []string
	Matviews                       []string
	Foreign                        []string // foreign tables
	ForeignServers                 []string
	LargeObjects                   int64
	Extensions                     []string
	ConfigTables                   []string // extension tables that hold rows of the tenant
	EventTriggers                  []string
	AlwaysTriggers                 []string
	Subscriptions, Publications    []string
	Tablespaces                    []string
	Collations                     []string // whose version the system changed
	Prepared                       []string // transactions
	DDL                            []string // tables locked by a change of their definition
	Oldest                         time.Duration
	Invalid                        []string // indexes
}

// Identity is a table that names its rows by nothing.
type Identity struct {
	Table  string
	Before string // what ALTER TABLE REPLICA IDENTITY calls it now
	Index  string // unique, and fit to name rows; may be empty
}

// Options are what the person who asks for the migration accepts.
type Options struct {
	FullIdentity bool // whole rows name the rows of a table without a key
	LostObjects  bool // large objects stay behind
}

const oldestSource = 150000

// links a migration needs: one, one for each table that is copied at a time,
// the collector, and the way back.
const linksNeeded = 4

// DecidePreflight lists everything that would break, refusals first. It is
// pure: the same survey gives the same list.
func DecidePreflight(s Survey, o Options) []Finding {
	var p preflight
	p.servers(s)
	p.database(s)
	p.identity(s.Database, o)
	p.objects(s, o)
	p.activity(s.Database)
	slices.SortStableFunc(p.found, func(a, b Finding) int { return cmp.Compare(a.Severity, b.Severity) })
	return p.found
}

// Refused are the findings that stop a migration.
func Refused(findings []Finding) []Finding {
	var out []Finding
	for _, f := range findings {
		if f.Severity == Refuses {
			out = append(out, f)
		}
	}
	return out
}

type preflight struct{ found []Finding }

func (p *preflight) add(severity, code, object, format string, args ...any) {
	p.found = append(p.found, Finding{severity, code, object, fmt.Sprintf(format, args...)})
}

func (p *preflight) each(severity, code string, objects []string, message string) {
	for _, o := range objects {
		p.add(severity, code, o, "%s", message)
	}
}

func (p *preflight) servers(s Survey) {
	for _, side := range []struct {
		name string
		is   Server
	}{{"source", s.From}, {"target", s.To}} {
		if side.is.Version < oldestSource {
			p.add(Refuses, "OldServer", side.name, "The %s runs PostgreSQL %d; 15 is the oldest that can be moved without a pause.", side.name, side.is.Version/10000)
		}
		if !side.is.Superuser {
			p.add(Refuses, "NoSuperuser", side.name, "The administrator of the %s is no superuser. Making a subscription on PostgreSQL 15, reading its progress, reading rows behind policies and ending sessions of others need one, on both servers, since each becomes the other's follower.", side.name)
		}
		if side.is.WALLevel != "logical" {
			p.add(Refuses, "WALLevel", side.name, "wal_level of the %s is %s; set it to logical and restart the server.", side.name, side.is.WALLevel)
		}
		if free := min(side.is.SlotsFree, side.is.SendersFree); free < linksNeeded {
			p.add(Refuses, "NoSlots", side.name, "The %s has %d replication slots and %d senders free; the migration needs %d of each. Raise max_replication_slots and max_wal_senders.", side.name, side.is.SlotsFree, side.is.SendersFree, linksNeeded)
		}
		if side.is.LogicalWorkers < linksNeeded || side.is.Processes < side.is.LogicalWorkers+2 {
			p.add(Refuses, "NoWorkers", side.name, "The %s allows %d logical workers of %d worker processes; the migration needs %d, and two processes beside them. Raise max_logical_replication_workers and max_worker_processes.", side.name, side.is.LogicalWorkers, side.is.Processes, linksNeeded)
		}
		if side.is.Verified && !side.is.LinkVerifiable {
			p.add(Refuses, "LinkUnverified", side.name, "The other server could not verify the certificate of the %s: name the file in which it keeps the authority.", side.name)
		}
	}
	if s.From.KeepSize < 0 {
		p.add(Warns, "UnboundWAL", "source", "max_slot_wal_keep_size of the source is unlimited: should berth be away, the copy's slot keeps WAL until the disk is full. Set a limit.")
	}
	if s.To.Version/10000 < s.From.Version/10000 {
		p.add(Refuses, "OlderTarget", "target", "The target runs PostgreSQL %d, the source %d; a schema moves only to the same or a newer major.", s.To.Version/10000, s.From.Version/10000)
	}
}

func (p *preflight) database(s Survey) {
	d := s.Database
	if s.Taken {
		p.add(Refuses, "TargetTaken", d.Name, "The target already has a database %s; drop or rename it.", d.Name)
	}
	if d.Limit == 0 {
		p.add(Refuses, "ClosedDatabase", d.Name, "The database has CONNECTION LIMIT 0, which a migration uses itself; give it another.")
	}
	if d.Provider == "c" && !knows(s.Collations, d.Collate) {
		p.add(Refuses, "LocaleMissing", d.Collate, "The target does not know the locale %s of the database; install it there and run pg_import_system_collations.", d.Collate)
	}
	p.each(Warns, "CollationVersion", d.Collations, "Its sort order has changed with the system under the source; indexes on it may already be wrong there. The target builds its own.")
	for _, extension := range d.Extensions {
		if !slices.Contains(s.Available, extension) {
			p.add(Refuses, "ExtensionMissing", extension, "The target does not offer the extension; install its package there.")
		}
	}
	for _, space := range d.Tablespaces {
		if !slices.Contains(s.Tablespace, space) {
			p.add(Refuses, "TablespaceMissing", space, "Create a tablespace of this name on the target, or move what is in it to the default.")
		}
	}
	there := map[string]Role{}
	for _, r := range s.ToRoles {
		there[r.Name] = r
	}
	for _, r := range d.Roles {
		other, exists := there[r.Name]
		switch {
		case r.Superuser && (!exists || !other.Superuser):
			p.add(Refuses, "SuperuserMissing", r.Name, "This superuser owns things in the database; make a superuser of the same name on the target, or give them to another role.")
		case r.Superuser && r.Login:
			p.add(Warns, "SuperuserLogin", r.Name, "A superuser passes the fence: no session of it may write during the switch.")
		case exists && !r.Superuser && other.Comment != r.Comment:
			p.add(Refuses, "RoleTaken", r.Name, "The target has a role of this name for somebody else; rename one of them.")
		case exists && !r.Superuser && r.Comment == "" && other.Verifier != r.Verifier:
			p.add(Refuses, "RoleTaken", r.Name, "The target has a role of this name with another password; drop or rename it.")
		}
	}
}

// knows compares locales as the C library does: C.UTF-8 is C.utf8.
func knows(locales []string, wanted string) bool {
	plain := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", "")) }
	return slices.ContainsFunc(append(locales, "C", "POSIX"), func(l string) bool { return plain(l) == plain(wanted) })
}

func (p *preflight) identity(d Contents, o Options) {
	for _, t := range d.NoIdentity {
		switch {
		case t.Index != "":
			p.add(Warns, "IdentityByIndex", t.Table, "It has no primary key; its unique index %s will name its rows until the migration is closed.", t.Index)
		case o.FullIdentity:
			p.add(Warns, "IdentityByRow", t.Table, "It has no key: whole rows will name its rows. Updates and deletes read the whole table on the target, and the switch hashes it.")
		default:
			p.add(Refuses, "NoIdentity", t.Table, "It has neither a primary key nor a unique index over columns that are NOT NULL, so updates cannot follow. Add one, or allow whole rows as identity.")
		}
	}
	p.each(Warns, "IdentityByRow", d.Full, "Its whole rows are its identity: updates and deletes read the whole table on the target, and the switch hashes it.")
}

func (p *preflight) objects(s Survey, o Options) {
	d := s.Database
	p.each(Refuses, "Unlogged", d.Unlogged, "Rows of an unlogged table are not replicated; make it LOGGED, or drop it.")
	p.each(Refuses, "ForeignServer", d.ForeignServers, "A foreign server and its user mappings hold passwords that a schema's copy would not carry; drop it and make it again on the target.")
	p.each(Refuses, "AlwaysTrigger", d.AlwaysTriggers, "A trigger that is ENABLE ALWAYS or REPLICA would fire again for each replicated row; make it ENABLE.")
	p.each(Warns, "ExtensionRows", d.ConfigTables, "This table belongs to an extension, which makes it on the target; rows that the tenant added to it do not move.")
	p.each(Refuses, "Subscription", d.Subscriptions, "The database itself follows another one; drop the subscription, and make it again on the target.")
	p.each(Warns, "Publication", d.Publications, "Publications do not move; whoever follows this one has to start over from the target.")
	p.each(Warns, "MaterializedView", d.Matviews, "It is filled anew on the target, and shows what it showed only after the next REFRESH on either side.")
	p.each(Warns, "EventTrigger", d.EventTriggers, "It is made last on the target, and fires there for changes from then on.")
	p.each(Warns, "InvalidIndex", d.Invalid, "It is invalid on the source and will be built whole on the target.")
	if d.LargeObjects > 0 {
		severity, hint := Refuses, "Keep them in a bytea column, or accept that they stay behind."
		if o.LostObjects {
			severity, hint = Warns, "They stay behind, as was accepted."
		}
		p.add(severity, "LargeObjects", fmt.Sprintf("%d large objects", d.LargeObjects), "Large objects are not replicated. %s", hint)
	}
}

func (p *preflight) activity(d Contents) {
	p.each(Refuses, "PreparedTransaction", d.Prepared, "A prepared transaction survives the fence and would be lost; COMMIT PREPARED or ROLLBACK PREPARED it.")
	p.each(Refuses, "DDLInFlight", d.DDL, "Its definition is being changed right now; wait for the change to end.")
	if d.Oldest > longTransaction {
		p.add(Warns, "LongTransaction", strings.TrimSuffix(d.Oldest.Round(time.Second).String(), "0s"), "A transaction has been open for this long. The copy starts, and the switch happens, only when no such transaction writes.")
	}
}

const longTransaction = 30 * time.Second
