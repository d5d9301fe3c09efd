package naming

// Migration is the name of everything that a migration makes on servers; what
// it makes several of adds a number. Object UIDs are never used twice.
func Migration(uid string) string { return "berth_m_" + digest(uid) }

// SuccessorServer is the id of the server that a claim's database moves to.
func SuccessorServer(namespace, name, version string) string {
	return cut("claim-"+namespace+"-"+name, ServerLimit-len(version)-10) + "-" + version + "-" + digest(namespace+"/"+name+"/"+version)
}
