package replication

// Parse reads one message of the replication stream.
func Parse(message []byte) error {
	_, err := parse(message)
	return err
}
