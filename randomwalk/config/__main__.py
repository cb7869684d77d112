from randomwalk.config.files import main

main()
