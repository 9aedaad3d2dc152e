# The Debian package: configure with -DPGSHUNT_PACKAGE=ON -DCMAKE_INSTALL_PREFIX=/usr, build, then
# "cpack" in the build directory.
if(NOT PGSHUNT_PACKAGE)
  return()
endif()

set(debian ${CMAKE_CURRENT_SOURCE_DIR}/conf/debian)
install(FILES ${debian}/pgshunt.yml ${debian}/userlist.txt DESTINATION /etc/pgshunt
        PERMISSIONS OWNER_READ OWNER_WRITE GROUP_READ)
install(DIRECTORY DESTINATION /etc/pgshunt/secrets
        DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE)
install(FILES ${debian}/copyright DESTINATION ${CMAKE_INSTALL_DOCDIR})

# Debian has manual pages and changelogs compressed.
string(TIMESTAMP now "%a, %d %b %Y %H:%M:%S +0000" UTC)
file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/docs/changelog
     "pgshunt (${PROJECT_VERSION}) unstable; urgency=medium\n\n  * Version ${PROJECT_VERSION}.\n\n"
     " -- pgshunt <pgshunt@localhost>  ${now}\n")
add_custom_command(OUTPUT docs/changelog.gz docs/pgshunt.1.gz docs/pgshuntd.8.gz
                   COMMAND gzip -9nkf docs/changelog docs/pgshunt.1 docs/pgshuntd.8
                   DEPENDS docs VERBATIM)
add_custom_target(compressed ALL DEPENDS docs/changelog.gz)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/docs/changelog.gz DESTINATION ${CMAKE_INSTALL_DOCDIR})

set(CPACK_GENERATOR DEB)
set(CPACK_SET_DESTDIR ON)
set(CPACK_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ
    GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_PACKAGE_NAME pgshunt)
set(CPACK_PACKAGE_CONTACT "pgshunt <pgshunt@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "moves a live PostgreSQL database to another server")
set(CPACK_PACKAGE_DESCRIPTION
"pgshuntd is a connection pooler for PostgreSQL that can hold the clients of
one database at the end of their transactions, put another server behind
them, and let them go on; pgshunt is the command that moves a database so,
by physical replication, and proves that nothing was lost.
It understands the configuration, console and users file of pgbouncer.")
set(CPACK_DEBIAN_PACKAGE_SECTION database)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "adduser, init-system-helpers (>= 1.54)")
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "postgresql-client, prometheus")
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION TRUE)
file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/docs/conffiles
     "/etc/pgshunt/pgshunt.yml\n/etc/pgshunt/userlist.txt\n")
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${debian}/postinst ${debian}/prerm ${debian}/postrm
    ${CMAKE_CURRENT_BINARY_DIR}/docs/conffiles)
include(CPack)
