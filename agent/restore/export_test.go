package restore

// Locate is locate, for tests of what it finds.
func Locate(root, wish string) (string, error) {
	f, err := locate(root, wish)
	return f.dir, err
}
