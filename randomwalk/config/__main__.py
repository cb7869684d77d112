from randomwalk.configio import main

main()
