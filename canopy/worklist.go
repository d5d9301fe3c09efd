package canopy

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Entry is one replica that must exist. Fields that are not known are left alone.
type Entry struct {
	ReplicaID    string          `json:"replica_id"` // of the declaration; several servers may share it
	GroupID      string          `json:"group_id"`
	ServerID     string          `json:"server_id"`
	Type         string          `json:"type"`
	Intent       string          `json:"intent"`
	Name         string          `json:"name"` // free text
	Freshness    *int64          `json:"freshness_seconds"`
	OverdueAfter *int64          `json:"overdue_after_seconds"` // the newer name of the same
	SnapshotID   *string         `json:"snapshot_id"`           // none: nothing is backed up yet
	SnapshotAt   *time.Time      `json:"snapshot_at"`
	Storage      string          `json:"storage"`
	Bucket       string          `json:"bucket"`
	Prefix       string          `json:"prefix"`
	Region       string          `json:"region"`
	Params       json.RawMessage `json:"params,omitempty"`
}

// MaxAge is how old a restore may get; zero is without limit.
func (e Entry) MaxAge() time.Duration {
	for _, seconds := range []*int64{e.OverdueAfter, e.Freshness} {
		if seconds != nil && *seconds > 0 {
			return time.Duration(min(*seconds, int64(time.Duration(1<<62)/time.Second))) * time.Second
		}
	}
	return 0
}

// ErrWorklist is in the chain for an answer that is no worklist.
var ErrWorklist = errors.New("the worklist is not usable")

// ParseWorklist reads a whole worklist. One entry that cannot be understood
// spoils it: to leave it out would be to take its replica down.
func ParseWorklist(text []byte) ([]Entry, error) {
	var entries []Entry
	if err := json.Unmarshal(text, &entries); err != nil {
		return nil, fmt.Errorf("%w: it is no list of entries", ErrWorklist)
	}
	if entries == nil {
		return nil, fmt.Errorf("%w: it is null", ErrWorklist)
	}
	names := map[string]bool{}
	for i, e := range entries {
		name, err := Namespace(e.ReplicaID, e.ServerID, e.Name)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%w: entry %d: %w", ErrWorklist, i, err)
		case names[name]:
			return nil, fmt.Errorf("%w: entry %d is of the same replica and server as another", ErrWorklist, i)
		case e.GroupID == "" || e.Type == "" || e.Intent == "":
			return nil, fmt.Errorf("%w: entry %d lacks its group, type or intent", ErrWorklist, i)
		case e.Storage != "s3" || e.Bucket == "" || e.Region == "":
			return nil, fmt.Errorf("%w: entry %d names no place in s3", ErrWorklist, i)
		}
		names[name] = true
	}
	return entries, nil
}

// Verification is what is reported of one restore. Counts that were not taken
// are left out, never zero.
type Verification struct {
	ReplicaID      string         `json:"replica_id,omitempty"`
	Group          string         `json:"group"`
	ServerID       string         `json:"server_id"`
	Type           string         `json:"type"`
	Intent         string         `json:"intent"`
	SnapshotID     string         `json:"snapshot_id,omitempty"`
	RunID          string         `json:"run_id,omitempty"`
	Outcome        string         `json:"outcome"` // success or failure
	Error          string         `json:"error,omitempty"`
	ReplicaHealthy bool           `json:"replica_healthy"`
	Version        string         `json:"postgres_version,omitempty"`
	ObservedAt     time.Time      `json:"observed_at"`
	HealthDetails  map[string]any `json:"health_details,omitempty"`

	SentRaw         *int64 `json:"s3_sent_raw_bytes,omitempty"`
	SentPayload     *int64 `json:"s3_sent_payload_bytes,omitempty"`
	ReceivedRaw     *int64 `json:"s3_received_raw_bytes,omitempty"`
	ReceivedPayload *int64 `json:"s3_received_payload_bytes,omitempty"`
}
