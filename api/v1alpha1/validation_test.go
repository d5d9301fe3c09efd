package v1alpha1_test

import (
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// refusal is a spec that the API does not take, with what the answer must say.
type refusal struct {
	spec string
	says []string
}

func says(texts ...string) []string { return texts }

func create(t *testing.T, kind string, accepts map[string]string, refuses map[string]refusal) {
	t.Helper()
	c := newClient(t)
	for name, spec := range accepts {
		t.Run("accepts "+name, func(t *testing.T) {
			t.Parallel()
			refused(t, c.Create(t.Context(), manifest(t, kind, "orders", spec), client.DryRunAll, strict))
		})
	}
	for name, tc := range refuses {
		t.Run("refuses "+name, func(t *testing.T) {
			t.Parallel()
			refused(t, c.Create(t.Context(), manifest(t, kind, "orders", tc.spec), client.DryRunAll, strict), tc.says...)
		})
	}
}

// change updates an object from one spec to another.
type change struct {
	from, to string
	says     []string // empty: accepted
}

func update(t *testing.T, kind string, changes map[string]change) {
	t.Helper()
	c := newClient(t)
	for name, tc := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			was := manifest(t, kind, "", tc.from)
			was.SetGenerateName("orders-")
			if err := c.Create(t.Context(), was, strict); err != nil {
				t.Fatal(err)
			}
			is := manifest(t, kind, was.GetName(), tc.to)
			is.SetResourceVersion(was.GetResourceVersion())
			refused(t, c.Update(t.Context(), is, client.DryRunAll, strict), tc.says...)
		})
	}
}

var (
	long61  = strings.Repeat("o", 61)
	long63  = strings.Repeat("o", 63)
	long64  = strings.Repeat("o", 64)
	wide62  = strings.Repeat("ö", 31) // 62 bytes in 31 characters
	wide64  = strings.Repeat("ö", 32)
	tooMany = strings.Repeat("x, ", 64) + "x"
)

const tooLong = "Too long: may not be more than"

func TestDatabaseClaimValidation(t *testing.T) {
	t.Parallel()
	create(t, "DatabaseClaim", map[string]string{
		"an empty spec":                       `{}`,
		"a database name of 63 bytes":         `databaseName: ` + long63,
		"a database name with quotes and SQL": `databaseName: 'x"; DROP DATABASE prod; --'`,
		"a database name of 62 wide bytes":    `databaseName: ` + wide62,
		"a user name of 61 bytes":             `userName: ` + long61,
		"a user name with a quote":            `userName: o'brien "x"`,
		"a Secret name with dots":             `secretName: identity.dsn-1`,
		"a version":                           `dbVersion: "17"`,
		"a version with a minor":              `dbVersion: "15.2"`,
		"an empty version":                    `dbVersion: ""`,
		"32 templates of 4 kB":                "secretTemplate: {" + templates(32, 4096) + "}",
		"keys of all kinds of characters":     `secretTemplate: {a-Z_0.9: "{{ .Host }}"}`,
		"schemas with quotes":                 `schemas: ['o"brien', public]`,
		"extensions":                          `extensions: [pg_trgm, uuid-ossp]`,
		"storage bounds in order":             `{minStorageGB: 20, maxStorageGB: 21}`,
		"no upper storage bound":              `minStorageGB: 20`,
		"the engines of db-controller":        `type: aurora-postgresql`,
		"null tags":                           `tags: null`,
		"the only DSN name":                   `dsnName: dsn.txt`,
		"deletion policies in both cases":     `deletionPolicy: orphan`,
		"deletion policy Delete":              `deletionPolicy: Delete`,
		"requests for rotation":               `rotation: {minVersion: 3, revokedThrough: 1000000000}`,
		"a source by a Secret":                `{useExistingSource: true, sourceDataFrom: {type: database, database: {secretRef: {name: s}}}}`,
		"a source by a URI and a Secret":      source(`postgres://root@db.example.org:5432/app?sslmode=require`),
		"a source by a URI with an empty one": source(`postgres://root:@db.example.org:5432/app`),
		"a source by a URI with an IPv6 host": source(`postgres://root@[::1]:5432/app`),
		"a source by key and value":           source(`host=db port=5432 user=root dbname=app`),
		"a source that is not used yet":       `{useExistingSource: false, sourceDataFrom: {type: database, database: {secretRef: {name: s}}}}`,
		"all of the rest": `{class: gold, adoptExisting: true, enableReplicationRole: true, enableSuperUser: false, shape: db.t4g.medium,
			backupPolicy: Gold, restoreFrom: snap-1, preferredMaintenanceWindow: "sun:01:00-sun:02:00", tags: [{key: a, value: b}], appId: shop,
			deletionProtection: true, allowedNamespaces: [a, b]}`,
	}, map[string]refusal{
		"a database name that is empty":        {`databaseName: ""`, says("spec.databaseName", "at least 1")},
		"a database name of 64 characters":     {`databaseName: ` + long64, says("spec.databaseName: " + tooLong)},
		"a database name of 64 bytes":          {`databaseName: ` + wide64, says("spec.databaseName: must be at most 63 bytes in UTF-8, the limit of PostgreSQL")},
		"a database name with a line break":    {`databaseName: "a\nb"`, says("spec.databaseName: must not contain control characters")},
		"a database name with a zero byte":     {`databaseName: "a\0b"`, says("spec.databaseName: must not contain control characters")},
		"a database name with a delete":        {`databaseName: "a\x7fb"`, says("spec.databaseName: must not contain control characters")},
		"the server's own database postgres":   {`databaseName: postgres`, says("spec.databaseName: postgres, template0 and template1 belong to the server; choose another name")},
		"the server's own database template1":  {`databaseName: template1`, says("spec.databaseName: postgres, template0")},
		"a user name that is empty":            {`userName: ""`, says("spec.userName", "at least 1")},
		"a user name of 62 characters":         {`userName: ` + long61 + "o", says("spec.userName: " + tooLong)},
		"a user name of 62 bytes":              {`userName: ` + wide62, says("spec.userName: must be at most 61 bytes in UTF-8: PostgreSQL allows 63 and the logins add _a or _b")},
		"a user name with a tab":               {`userName: "a\tb"`, says("spec.userName: must not contain control characters")},
		"a user name that PostgreSQL keeps":    {`userName: pg_monitor`, says("spec.userName: names starting with pg_, and public, none, postgres, belong to PostgreSQL; choose another name")},
		"the user name public":                 {`userName: public`, says("spec.userName: names starting with pg_")},
		"the user name postgres":               {`userName: postgres`, says("spec.userName: names starting with pg_")},
		"a Secret name with capitals":          {`secretName: App`, says("spec.secretName", "^[a-z0-9]")},
		"a Secret name that is too long":       {`secretName: ` + strings.Repeat("s", 254), says("spec.secretName: " + tooLong)},
		"a template key that is always there":  {`secretTemplate: {password: x}`, says("spec.secretTemplate: dsn.txt, uri_dsn.txt, hostname, port, database, username, password and sslmode are always written; choose other keys")},
		"a template key no Secret may have":    {`secretTemplate: {"a/b": x}`, says("spec.secretTemplate: keys may hold letters, digits, '-', '_' and '.'")},
		"33 templates":                         {"secretTemplate: {" + templates(33, 1) + "}", says("spec.secretTemplate", "32")},
		"a template of more than 4 kB":         {"secretTemplate: {" + templates(1, 4097) + "}", says(tooLong)},
		"a version in words":                   {`dbVersion: latest`, says("spec.dbVersion", "[0-9]{2}")},
		"a version as a number":                {`dbVersion: 15.2`, says("spec.dbVersion", "must be of type string")},
		"a schema twice":                       {`schemas: [a, a]`, says("spec.schemas[1]: Duplicate value")},
		"a schema without a name":              {`schemas: [""]`, says("spec.schemas[0]", "at least 1")},
		"a schema that PostgreSQL keeps":       {`schemas: [pg_temp]`, says("spec.schemas: schema names have 1 to 63 bytes")},
		"the schema information_schema":        {`schemas: [information_schema]`, says("spec.schemas: schema names have 1 to 63 bytes")},
		"a schema of 64 bytes":                 {`schemas: [` + wide64 + `]`, says("spec.schemas: schema names have 1 to 63 bytes")},
		"a schema of 64 characters":            {`schemas: [` + long64 + `]`, says("spec.schemas[0]: " + tooLong)},
		"a schema with a line break":           {`schemas: ["a\nb"]`, says("spec.schemas: schema names have 1 to 63 bytes")},
		"too many extensions":                  {`extensions: [` + tooMany + `]`, says("spec.extensions", "64")},
		"storage bounds out of order":          {`{minStorageGB: 20, maxStorageGB: 20}`, says("spec.maxStorageGB: must be greater than spec.minStorageGB")},
		"negative storage":                     {`minStorageGB: -1`, says("spec.minStorageGB", "greater than or equal to 0")},
		"another engine":                       {`type: mysql`, says("spec.type", `"postgres", "aurora-postgresql"`)},
		"another backup policy":                {`backupPolicy: Lead`, says("spec.backupPolicy", `"Bronze", "Silver", "Gold", "Platinum"`)},
		"another deletion policy":              {`deletionPolicy: Keep`, says("spec.deletionPolicy", `"Delete", "delete", "Orphan", "orphan"`)},
		"another DSN name":                     {`dsnName: my.txt`, says("spec.dsnName: the key is always dsn.txt; add other keys by spec.secretTemplate")},
		"a tag without a value":                {`tags: [{key: a}]`, says("spec.tags[0].value: Required value")},
		"a negative request":                   {`rotation: {minVersion: -1}`, says("spec.rotation.minVersion", "greater than or equal to 0")},
		"a request that no counter reaches":    {`rotation: {minVersion: 1000000001}`, says("spec.rotation.minVersion", "less than or equal to 1000000000")},
		"a revocation that no counter reaches": {`rotation: {revokedThrough: 1000000001}`, says("spec.rotation.revokedThrough", "less than or equal to 1000000000")},
		"an existing source without a source":  {`useExistingSource: true`, says("spec.sourceDataFrom: useExistingSource needs the database to use; set spec.sourceDataFrom.database.secretRef")},
		"a source of another type":             {`sourceDataFrom: {type: s3, database: {secretRef: {name: s}}}`, says("spec.sourceDataFrom.type", `"database"`)},
		"a source without a database":          {`sourceDataFrom: {type: database}`, says("spec.sourceDataFrom.database: name the source database")},
		"a source without a Secret": {`sourceDataFrom: {type: database, database: {dsn: "postgres://root@db/app"}}`,
			says("spec.sourceDataFrom.database.secretRef: name a Secret of this namespace with uri_dsn.txt, or with password beside spec.sourceDataFrom.database.dsn")},
		"an empty class":                     {`class: ""`, says("spec.class", "at least 1")},
		"a password in a URI":                {source(`postgres://root:hunter2@db/app`), dsnPassword},
		"a password with a slash in a URI":   {source(`postgres://root:hun/ter2@db/app`), dsnPassword},
		"a password with an @ in a URI":      {source(`postgres://root:hun@ter2@db/app`), dsnPassword},
		"a password in a URI in capitals":    {source(`POSTGRES://root:hunter2@db/app`), dsnPassword},
		"a password without a user in a URI": {source(`postgres://:hunter2@db/app`), dsnPassword},
		"a password in a query":              {source(`postgres://root@db/app?password=hunter2`), dsnPassword},
		"a password among keys":              {source(`host=db user=root password=hunter2`), dsnPassword},
		"a password among keys, with space":  {source("host=db user=root password\t = hunter2"), dsnPassword},
	})
}

var dsnPassword = says("spec.sourceDataFrom.database.dsn: must not hold a password, since anyone who reads the claim would see it; put it in the Secret's key password")

func source(dsn string) string {
	return `{useExistingSource: true, sourceDataFrom: {type: database, database: {secretRef: {name: s}, dsn: "` + strings.ReplaceAll(dsn, "\t", `\t`) + `"}}}`
}

func templates(n, size int) string {
	var keys []string
	for i := range n {
		keys = append(keys, "k"+strings.Repeat("x", i)+": "+strings.Repeat("t", size))
	}
	return strings.Join(keys, ", ")
}

func TestDatabaseClaimChanges(t *testing.T) {
	t.Parallel()
	update(t, "DatabaseClaim", map[string]change{
		"accepts what may change":                 {`{minStorageGB: 1, tags: [{key: a, value: b}]}`, `{minStorageGB: 2, secretName: s, schemas: [a], dbVersion: "17", deletionProtection: true}`, nil},
		"accepts more storage":                    {`maxStorageGB: 10`, `maxStorageGB: 20`, nil},
		"accepts a first bound of storage":        {`{}`, `maxStorageGB: 20`, nil},
		"refuses another class":                   {`class: a`, `class: b`, says("spec.class: a claim cannot change its class yet; make a new claim")},
		"refuses to leave a class for default":    {`class: a`, `{}`, says("spec.class: a claim cannot change its class yet")},
		"refuses another database name":           {`databaseName: a`, `databaseName: b`, says("spec.databaseName: a claim's database cannot be renamed; make a new claim")},
		"refuses a database name that comes late": {`{}`, `databaseName: b`, says("spec.databaseName: a claim's database cannot be renamed")},
		"refuses a database name that goes":       {`databaseName: a`, `{}`, says("spec.databaseName: a claim's database cannot be renamed")},
		"refuses another user name":               {`userName: a`, `userName: b`, says("spec.userName: a claim's role cannot be renamed; make a RoleClaim for another login")},
		"refuses a user name that goes":           {`userName: a`, `{}`, says("spec.userName: a claim's role cannot be renamed")},
		"refuses less storage":                    {`maxStorageGB: 20`, `maxStorageGB: 10`, says("spec.maxStorageGB: storage cannot shrink; keep it at or above its earlier value")},
		"refuses a storage bound that goes":       {`maxStorageGB: 20`, `{}`, says("spec.maxStorageGB: storage cannot shrink")},
		"says everything at once": {`{databaseName: a, userName: a, maxStorageGB: 20}`, `{databaseName: b, userName: b, maxStorageGB: 10, minStorageGB: 10, dsnName: x, secretTemplate: {port: x}}`,
			says("spec.databaseName: a claim's", "spec.userName: a claim's", "spec.maxStorageGB: storage", "spec.maxStorageGB: must be greater", "spec.dsnName: the key", "spec.secretTemplate: dsn.txt")},
	})
}

func TestSeveralErrorsComeTogether(t *testing.T) {
	t.Parallel()
	c := newClient(t)
	err := c.Create(t.Context(), manifest(t, "DatabaseClaim", "orders", `{databaseName: postgres, userName: pg_x, schemas: [pg_x], dsnName: x, useExistingSource: true, minStorageGB: 5, maxStorageGB: 4}`), client.DryRunAll)
	refused(t, err, "spec.databaseName: postgres", "spec.userName: names", "spec.schemas: schema", "spec.dsnName: the key", "spec.sourceDataFrom: useExistingSource", "spec.maxStorageGB: must")
	err = c.Create(t.Context(), manifest(t, "DatabaseClaim", "orders", `{type: mysql, dbVersion: x, backupPolicy: x, minStorageGB: -1}`), client.DryRunAll)
	refused(t, err, "spec.type", "spec.dbVersion", "spec.backupPolicy", "spec.minStorageGB")
}

func TestAnUnknownFieldIsRefused(t *testing.T) {
	t.Parallel()
	err := newClient(t).Create(t.Context(), manifest(t, "DatabaseClaim", "orders", `databasName: x`), client.DryRunAll, strict)
	if err == nil || !strings.Contains(err.Error(), `unknown field "spec.databasName"`) {
		t.Errorf("got %v", err)
	}
}

func TestNamesThatLabelsCannotCarry(t *testing.T) {
	t.Parallel()
	c := newClient(t)
	for kind, spec := range map[string]string{"DatabaseClaim": `{}`, "RoleClaim": `sourceDatabaseClaim: {name: orders}`} {
		refused(t, c.Create(t.Context(), manifest(t, kind, long63, spec), client.DryRunAll))
		refused(t, c.Create(t.Context(), manifest(t, kind, long64, spec), client.DryRunAll), "metadata.name: must be at most 63 characters, because labels carry it")
	}
}

func TestRoleClaimValidation(t *testing.T) {
	t.Parallel()
	create(t, "RoleClaim", map[string]string{
		"a copy of the claim's Secret": `sourceDatabaseClaim: {name: orders}`,
		"a source elsewhere":           `sourceDatabaseClaim: {name: orders, namespace: shop}`,
		"a login with roles":           `{sourceDatabaseClaim: {name: orders}, userName: reader, secretName: s, class: default, schemarolemap: {public: readonly, app: regular, own: admin}}`,
		"a schema of 62 wide bytes":    `{sourceDatabaseClaim: {name: orders}, schemarolemap: {` + wide62 + `: readonly}}`,
		"requests for rotation":        `{sourceDatabaseClaim: {name: orders}, rotation: {minVersion: 2, revokedThrough: 1}}`,
	}, map[string]refusal{
		"no source":                         {`{}`, says("spec.sourceDatabaseClaim: Required value")},
		"a source without a name":           {`sourceDatabaseClaim: {name: ""}`, says("spec.sourceDatabaseClaim.name", "at least 1")},
		"an empty role map":                 {`{sourceDatabaseClaim: {name: orders}, schemarolemap: {}}`, says("spec.schemarolemap", "at least 1")},
		"another role":                      {`{sourceDatabaseClaim: {name: orders}, schemarolemap: {public: owner}}`, says("spec.schemarolemap.public", `"readonly", "regular", "admin"`)},
		"a schema that PostgreSQL keeps":    {`{sourceDatabaseClaim: {name: orders}, schemarolemap: {pg_catalog: readonly}}`, says("spec.schemarolemap: schema names have 1 to 63 bytes and are not PostgreSQL's own (pg_*, information_schema)")},
		"the schema information_schema":     {`{sourceDatabaseClaim: {name: orders}, schemarolemap: {information_schema: readonly}}`, says("spec.schemarolemap: schema names")},
		"a schema without a name":           {`{sourceDatabaseClaim: {name: orders}, schemarolemap: {"": readonly}}`, says("spec.schemarolemap: schema names")},
		"a schema of 64 bytes":              {`{sourceDatabaseClaim: {name: orders}, schemarolemap: {` + wide64 + `: readonly}}`, says("spec.schemarolemap: schema names")},
		"a user name of a copy":             {`{sourceDatabaseClaim: {name: orders}, userName: reader}`, says("spec.userName: a role claim without spec.schemarolemap copies the claim's own login; add spec.schemarolemap or remove spec.userName")},
		"a user name of 62 bytes":           {`{sourceDatabaseClaim: {name: orders}, schemarolemap: {a: admin}, userName: ` + wide62 + `}`, says("spec.userName: must be at most 61 bytes")},
		"a user name that PostgreSQL keeps": {`{sourceDatabaseClaim: {name: orders}, schemarolemap: {a: admin}, userName: none}`, says("spec.userName: names starting with pg_")},
		"a user name with a line break":     {`{sourceDatabaseClaim: {name: orders}, schemarolemap: {a: admin}, userName: "a\nb"}`, says("spec.userName: must not contain control characters")},
		"a Secret name with an underscore":  {`{sourceDatabaseClaim: {name: orders}, secretName: a_b}`, says("spec.secretName")},
	})
}

func TestRoleClaimChanges(t *testing.T) {
	t.Parallel()
	update(t, "RoleClaim", map[string]change{
		"accepts other roles":       {`{sourceDatabaseClaim: {name: orders}, schemarolemap: {a: admin}}`, `{sourceDatabaseClaim: {name: orders}, schemarolemap: {a: readonly, b: admin}, secretName: s}`, nil},
		"refuses another source":    {`sourceDatabaseClaim: {name: orders}`, `sourceDatabaseClaim: {name: shop}`, says("spec.sourceDatabaseClaim: cannot change; make a new RoleClaim")},
		"refuses another user name": {`{sourceDatabaseClaim: {name: orders}, schemarolemap: {a: admin}, userName: a}`, `{sourceDatabaseClaim: {name: orders}, schemarolemap: {a: admin}, userName: b}`, says("spec.userName: a role cannot be renamed; make a new RoleClaim")},
		"refuses to become a login": {`sourceDatabaseClaim: {name: orders}`, `{sourceDatabaseClaim: {name: orders}, schemarolemap: {a: admin}}`, says("spec.schemarolemap: a role claim cannot turn from a copy into a login or back; make a new RoleClaim")},
		"refuses to become a copy":  {`{sourceDatabaseClaim: {name: orders}, schemarolemap: {a: admin}}`, `sourceDatabaseClaim: {name: orders}`, says("spec.schemarolemap: a role claim cannot turn")},
	})
}

func TestDatabaseClassValidation(t *testing.T) {
	t.Parallel()
	create(t, "DatabaseClass", map[string]string{
		"a local class":                     `backend: local`,
		"a class of dedicated ones":         `{backend: local, dedicated: true, dbVersion: "17.4", sslMode: disable}`,
		"an existing server":                `{backend: existing, server: {secretRef: {name: admin, namespace: berth}}}`,
		"an existing server, not dedicated": `{backend: existing, dedicated: false, server: {secretRef: {name: admin, namespace: berth}}}`,
		"the longest period":                `{backend: local, rotation: {period: 1440m}}`,
		"the same period in hours":          `{backend: local, rotation: {period: 24h}}`,
		"a lower floor":                     `{backend: local, rotation: {period: 1s, floor: 1s, propagation: 0s}}`,
		"bounds of passwords":               `{backend: local, password: {length: 15, complexity: enabled}}`,
		"the other bound":                   `{backend: local, password: {length: 99, complexity: disabled}}`,
		"no undo":                           `{backend: local, deletion: {reclaim: Retain, undoWindow: 0s}}`,
		"all allowances":                    `{backend: local, allow: {superuser: true, replication: true, adoption: true, existingSource: true, extensions: ["*"]}}`,
		"no extensions at all":              `{backend: local, allow: {extensions: []}}`,
		"a short drift interval":            `{backend: local, driftInterval: 1s}`,
		"namespaces":                        `{backend: local, allowedNamespaces: [a, b]}`,
	}, map[string]refusal{
		"no backend":                        {`{}`, says("spec.backend: Required value")},
		"another backend":                   {`backend: magic`, says("spec.backend", `"existing", "local"`)},
		"an existing server without access": {`backend: existing`, says("spec.server: backend existing needs the Secret of its administrator; set spec.server.secretRef.name and .namespace")},
		"a Secret without a namespace":      {`{backend: existing, server: {secretRef: {name: admin}}}`, says("spec.server.secretRef.namespace: a class belongs to no namespace; name the namespace of its Secret")},
		"a Secret with an empty namespace":  {`{backend: existing, server: {secretRef: {name: admin, namespace: ""}}}`, says("spec.server.secretRef.namespace: a class belongs to no namespace")},
		"access to a local server":          {`{backend: local, server: {secretRef: {name: admin, namespace: berth}}}`, says("spec.server: only backend existing connects to a server by a Secret; remove spec.server or set spec.backend: existing")},
		"an existing server for each claim": {`{backend: existing, dedicated: true, server: {secretRef: {name: admin, namespace: berth}}}`, says("spec.dedicated: backend existing has one server for all its claims; remove spec.dedicated or choose a backend that makes servers")},
		"a shape of an existing server":     {`{backend: existing, shape: big, server: {secretRef: {name: admin, namespace: berth}}}`, says("spec.shape: backend existing makes no servers; remove spec.shape or choose a backend that makes servers")},
		"storage of an existing server":     {`{backend: existing, minStorageGB: 20, server: {secretRef: {name: admin, namespace: berth}}}`, says("spec.minStorageGB: backend existing makes no servers; remove spec.minStorageGB or choose a backend that makes servers")},
		"a period under the floor":          {`{backend: local, rotation: {period: 59m}}`, says("spec.rotation.period: must be at least spec.rotation.floor (60m unless the class lowers it); use a Go duration such as 60m")},
		"a period over a day":               {`{backend: local, rotation: {period: 1441m}}`, says("spec.rotation.period: must be at most 1440m")},
		"a floor under a second":            {`{backend: local, rotation: {period: 60m, floor: 999ms}}`, says("spec.rotation.floor: must be at least 1s")},
		"a period without a unit":           {`{backend: local, rotation: {period: "60"}}`, says("spec.rotation.period", "such as 60m")},
		"an undo window in days":            {`{backend: local, deletion: {undoWindow: 1d}}`, says("spec.deletion.undoWindow", "use a Go duration such as 24h")},
		"a period as a number":              {`{backend: local, rotation: {period: 60}}`, says("spec.rotation.period", "must be of type string")},
		"a negative propagation":            {`{backend: local, rotation: {propagation: -1s}}`, says("spec.rotation.propagation: must be between 0s and 24h")},
		"a propagation over a day":          {`{backend: local, rotation: {propagation: 25h}}`, says("spec.rotation.propagation: must be between 0s and 24h")},
		"a password of 14":                  {`{backend: local, password: {length: 14}}`, says("spec.password.length", "greater than or equal to 15")},
		"a password of 100":                 {`{backend: local, password: {length: 100}}`, says("spec.password.length", "less than or equal to 99")},
		"another complexity":                {`{backend: local, password: {complexity: high}}`, says("spec.password.complexity", `"enabled", "disabled"`)},
		"another reclaim policy":            {`{backend: local, deletion: {reclaim: Recycle}}`, says("spec.deletion.reclaim", `"Delete", "Retain"`)},
		"a negative undo window":            {`{backend: local, deletion: {undoWindow: -1h}}`, says("spec.deletion.undoWindow: must not be negative")},
		"another SSL mode":                  {`{backend: local, sslMode: allow}`, says("spec.sslMode", `"disable", "prefer", "require", "verify-ca", "verify-full"`)},
		"a version in words":                {`{backend: local, dbVersion: latest}`, says("spec.dbVersion")},
		"a drift interval under a second":   {`{backend: local, driftInterval: 10ms}`, says("spec.driftInterval: must be at least 1s, such as 30m")},
		"a namespace twice":                 {`{backend: local, allowedNamespaces: [a, a]}`, says("spec.allowedNamespaces[1]: Duplicate value")},
	})
	update(t, "DatabaseClass", map[string]change{
		"accepts another policy":  {`backend: local`, `{backend: local, rotation: {period: 120m}, password: {length: 20}}`, nil},
		"refuses another backend": {`backend: local`, `{backend: existing, server: {secretRef: {name: admin, namespace: berth}}}`, says("spec.backend: the backend of a class cannot change; make a new class")},
	})
}
