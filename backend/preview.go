package backend

import "github.com/berth-dev/berth/postgres"

// Preview is what an object would cause if it were applied now. Nothing of it
// has been done.
type Preview struct {
	// Stops says why nothing would happen; empty when something or nothing need be done.
	Stops string
	// Objects are what would be written or made: "Secret apps/orders", "server claim-…".
	Objects []string
	// Statements are the SQL that would run, in order.
	Statements []postgres.Statement
	// Restarts are the servers that would restart, and when.
	Restarts []string
}
